"""Masks of what is to be regenerated, in any form, and fills that reach over them.

Masks are (H, W) float32 from 0 (kept) to 1 (regenerated). Shapes: B batch, C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nextscale.data.decode import Decoded, decode

logger = logging.getLogger(__name__)

Box = tuple[int, int, int, int]
MaskLike = Image.Image | np.ndarray | Tensor | bytes | str | Path
KEPT = 40 / 255
"""Brightness up to which a pixel is wholly kept: JPEG leaves as much around what was black."""
REGENERATED = 215 / 255
"""Brightness from which it is wholly regenerated."""
COLOURED = 16
"""Difference of channels above which a palette is one of labels' colours."""
OUT_OF_RANGE = "a mask's numbers must lie between 0 (kept) and 1 (regenerated)"
SAME_ASPECT = 0.02
"""Relative difference of aspect up to which a mask of another size is stretched over its image."""


def read_mask(
    mask: MaskLike,
    size: tuple[int, int],
    *,
    name: str = "",
    formats: tuple[str, ...] | None = None,
    most_pixels: int = 0,
) -> Tensor:
    """A mask of `size` (height, width) from a file, an image or an array; every mask is read here.

    White, True, 1 or alpha 0 is regenerated; grey lies between, but for `KEPT` and `REGENERATED` at its ends. What has
    two values means them: the greater is regenerated, whatever it is. Of palettes with colours and of other maps of
    labels 0 is kept. Of transparent images alpha counts: what is clear is regenerated, unless all that is opaque is
    white, which then are strokes to be regenerated. Arrays of floats mean their numbers, from 0 to 1, even where they
    are two. A mask of another size and the same aspect is stretched. That nothing or everything changes is logged.
    `formats` and `most_pixels` are those of `read_image`. Raises ValueError.
    """
    name = name or (f"mask {mask}" if isinstance(mask, (str, Path)) else "mask")
    if isinstance(mask, (np.ndarray, Tensor)):
        shares = shares_of(*_numbers_of_array(mask), name)
    else:
        shares = _shares_of_image(decode(mask, name=name, formats=formats, most_pixels=most_pixels), name)
    height, width = shares.shape
    if (height, width) != size:
        if abs(height / width / (size[0] / size[1]) - 1) > SAME_ASPECT:
            raise ValueError(
                f"the mask is {width} x {height} pixels, the image {size[1]} x {size[0]}; give a mask of the image's "
                "size or aspect"
            )
        shares = F.interpolate(torch.from_numpy(shares)[None, None], size=size, mode="nearest")[0, 0].numpy()
    if shares.max() == 0:
        logger.warning("%s: keeps everything, so that nothing will change; white or transparent is made anew", name)
    elif shares.min() == 1:
        logger.warning("%s: covers the whole image, so that everything will change", name)
    return torch.from_numpy(shares)


def shares_of(values: np.ndarray, white: float, name: str = "mask") -> np.ndarray:
    """How much of each pixel is regenerated, (H, W) float32 from 0 to 1, of numbers (H, W). Raises ValueError."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise ValueError(OUT_OF_RANGE)
    whole = values.dtype.kind in "iu"
    if whole and high <= 1:
        return values.astype(np.float32)
    two = low < high and bool(((values == low) | (values == high)).all())
    if two and low < REGENERATED * white and (whole or high > white or high <= KEPT * white):
        return (values == high).astype(np.float32)
    if high > white:
        raise ValueError(OUT_OF_RANGE)
    if whole and low == 0 and high <= KEPT * white:
        logger.warning(
            "%s: no value is above %g of %g; they are taken as labels, of which 0 is kept", name, high, white
        )
        return (values > 0).astype(np.float32)
    return _with_ends(values.astype(np.float32) / np.float32(white))


def _with_ends(shares: np.ndarray) -> np.ndarray:
    """Shares (H, W), those near the ends wholly kept and wholly regenerated."""
    return np.where(shares <= KEPT, 0, np.where(shares >= REGENERATED, 1, shares)).astype(np.float32)


def transparency(image: Image.Image) -> np.ndarray | None:
    """How clear each pixel is, (H, W) float32 from 0 to 1; None where the whole image is opaque."""
    if not image.has_transparency_data or image.mode in ("I", "F"):
        return None
    clear = _with_ends(1 - np.asarray(image.convert("RGBA").getchannel("A")).astype(np.float32) / 255)
    return clear if clear.max() > 0 else None


def _shares_of_image(decoded: Decoded, name: str) -> np.ndarray:
    image = decoded.image
    if image.mode in ("I", "F"):
        return shares_of(np.asarray(image), decoded.white, name)
    clear = transparency(image)
    if clear is not None:
        opaque = np.asarray(image.convert("RGBA"))[clear < 1]
        strokes = len(opaque) > 0 and opaque[:, :3].min() >= 255 * REGENERATED
        return 1 - clear if strokes else clear
    grey = np.asarray(image.convert("RGB").convert("L"))
    if image.mode == "P":
        labels, palette = np.asarray(image), np.zeros((256, 3), dtype=np.int16)
        colours = np.array(image.getpalette("RGB"), dtype=np.int16).reshape(-1, 3)
        palette[: len(colours)] = colours
        used = palette[np.unique(labels)]
        if int(np.ptp(used, axis=1).max()) > COLOURED or len(np.unique(used, axis=0)) < len(used):
            return (labels > 0).astype(np.float32)
    return shares_of(grey, 255.0, name)


def _numbers_of_array(mask: np.ndarray | Tensor) -> tuple[np.ndarray, float]:
    """Numbers (H, W) of an array (H, W), (1, H, W) or (H, W, 1), and which of them is white. Raises ValueError."""
    values = mask.detach().cpu() if isinstance(mask, Tensor) else mask
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).numpy()
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a mask must be (height, width), got {tuple(values.shape)}")
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"a mask must hold numbers, got {values.dtype}")
    white = 1.0 if values.dtype.kind == "f" else 255.0 if values.max() <= 255 and values.dtype != np.uint16 else 65535.0
    return values, white


def mask_of_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Boxes (left, top, right, bottom) in pixels, right and bottom excluded. Raises ValueError."""
    mask = torch.zeros(size)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
            raise ValueError(
                f"box {left},{top},{right},{bottom} does not lie in the image of {size[1]} x {size[0]} pixels; "
                "expected left,top,right,bottom"
            )
        mask[top:bottom, left:right] = 1
    return mask


def spread_inward(values: Tensor, known: Tensor) -> Tensor:
    """Fill what is not known from around it, smoothly: (B, C, H, W), (B, 1, H, W) bool -> (B, C, H, W).

    Averages of the known, level by level coarser, until everything is covered; then back down, each level filled from
    the coarser one and smoothed. Known values stay as they are.
    """
    weight = known.float()
    return _pull(values * weight, weight, values.shape[-2:])


def filled(images: Tensor, known: Tensor) -> Tensor:
    """Images whose unknown pixels are filled from around them; as they are where nothing is known."""
    some = known.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    return torch.where(known | ~some, images, spread_inward(images, known))


def _pull(sums: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """Values where their weights are positive, elsewhere those of coarser levels."""
    here = sums / weight.clamp_min(1e-6)
    if bool((weight > 0).all()) or max(size) == 1:
        return here
    coarse = [-(-side // 2) for side in size]
    padded = (0, coarse[1] * 2 - size[1], 0, coarse[0] * 2 - size[0])
    sums_below, weight_below = (F.avg_pool2d(F.pad(part, padded), 2) for part in (sums, weight))
    below = _pull(sums_below, weight_below, coarse)
    filled = F.interpolate(below, scale_factor=2, mode="bilinear")[..., : size[0], : size[1]]
    known = weight > 0
    current = torch.where(known, here, filled)
    for _ in range(SMOOTHING):
        around = F.avg_pool2d(F.pad(current, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        current = torch.where(known, here, around)
    return current


SMOOTHING = 8
"""Averages over neighbours at each level of a fill."""


def mask_values(mask: MaskLike | Sequence[Box] | None, size: tuple[int, int]) -> Tensor:
    """What is regenerated of an image of that size, (H, W) from 0 to 1: of a mask, of boxes, or everything for None."""
    if mask is None:
        return torch.ones(size)
    if isinstance(mask, Sequence) and not isinstance(mask, (str, bytes)):
        return read_mask(mask_of_boxes(mask, size), size, name="boxes")
    return read_mask(mask, size)
