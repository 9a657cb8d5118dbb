"""Masks of what is to be regenerated, read from any form: (H, W) float32 from 0 (kept) to 1 (regenerated)."""

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
from nextscale.pyramid import Size

logger = logging.getLogger(__name__)

Box = tuple[int, int, int, int]
MaskLike = Image.Image | np.ndarray | Tensor | bytes | str | Path
KEPT = 40 / 255
"""Brightness up to which a pixel is kept entirely: JPEG leaves as much around what was black."""
REGENERATED = 215 / 255
"""Brightness from which a pixel is regenerated entirely."""
COLOURED = 16
"""Difference between the channels of a colour above which its palette is one of labels."""
OUT_OF_RANGE = "a mask's numbers must lie between 0 (kept) and 1 (regenerated)"
SAME_ASPECT = 0.02
"""Largest relative difference of aspect at which a mask of another size is stretched over its image."""


def read_mask(
    mask: MaskLike, size: Size, *, name: str = "", formats: tuple[str, ...] | None = None, most_pixels: int = 0
) -> Tensor:
    """A mask of `size` (height, width) from a file, an image or an array; every mask is read here.

    White, True, 1 or alpha 0 is regenerated. Grey is mixed, from `KEPT` to `REGENERATED`. In a mask of two values the
    greater is regenerated, whatever it is. In palettes with colours and other maps of labels, 0 is kept. In transparent
    images alpha counts: clear pixels are regenerated, unless every opaque pixel is white; then these are strokes to be
    regenerated. Arrays of floats from 0 to 1 are shares, even if they hold two values. A mask of another size and the
    same aspect is stretched. A mask that changes nothing or everything is logged. `formats` and `most_pixels` are those
    of `read_image`. Raises ValueError.
    """
    name = name or (f"mask {mask}" if isinstance(mask, (str, Path)) else "mask")
    if isinstance(mask, (np.ndarray, Tensor)):
        shares = shares_of(*numbers_of_array(mask), name)
    else:
        shares = shares_of_image(decode(mask, name=name, formats=formats, most_pixels=most_pixels), name)
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
    """Share of each pixel that is regenerated, (H, W) float32 from 0 to 1, from numbers (H, W). Raises ValueError."""
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
    return clipped(values.astype(np.float32) / np.float32(white))


def clipped(shares: np.ndarray) -> np.ndarray:
    """Shares (H, W), with 0 for those up to `KEPT` and 1 for those from `REGENERATED`."""
    return np.where(shares <= KEPT, 0, np.where(shares >= REGENERATED, 1, shares)).astype(np.float32)


def transparency(image: Image.Image) -> np.ndarray | None:
    """Transparency of each pixel, (H, W) float32 from 0 to 1; None where the whole image is opaque."""
    if not image.has_transparency_data or image.mode in ("I", "F"):
        return None
    clear = clipped(1 - np.asarray(image.convert("RGBA").getchannel("A")).astype(np.float32) / 255)
    return clear if clear.max() > 0 else None


def shares_of_image(decoded: Decoded, name: str) -> np.ndarray:
    """`shares_of` an image of any mode."""
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


def numbers_of_array(mask: np.ndarray | Tensor) -> tuple[np.ndarray, float]:
    """Numbers (H, W) of an array (H, W), (1, H, W) or (H, W, 1), and the value of white. Raises ValueError."""
    values = mask
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a mask must be (height, width), got {tuple(values.shape)}")
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"a mask must hold numbers, got {values.dtype}")
    if values.dtype.kind == "f":
        return values, 1.0
    return values, 255.0 if values.max() <= 255 and values.dtype != np.uint16 else 65535.0


def mask_of_boxes(boxes: Sequence[Box], size: Size) -> Tensor:
    """A mask of boxes (left, top, right, bottom) in pixels, right and bottom excluded. Raises ValueError."""
    mask = torch.zeros(size)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
            raise ValueError(
                f"box {left},{top},{right},{bottom} does not lie in the image of {size[1]} x {size[0]} pixels; "
                "expected left,top,right,bottom"
            )
        mask[top:bottom, left:right] = 1
    return mask


def mask_values(mask: MaskLike | Sequence[Box] | None, size: Size) -> Tensor:
    """The mask (H, W) of an image of that size, from a mask in any form, from boxes, or all of it for None."""
    if mask is None:
        return torch.ones(size)
    if isinstance(mask, Sequence) and not isinstance(mask, (str, bytes)):
        return read_mask(mask_of_boxes(mask, size), size, name="boxes")
    return read_mask(mask, size)
