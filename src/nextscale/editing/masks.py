"""Masks of what is to be regenerated, in any form, and fills that reach over them.

Masks are (H, W) float32 from 0 (kept) to 1 (regenerated). Shapes: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from nextscale.data.decode import UnreadableImage

Box = tuple[int, int, int, int]
MaskLike = Image.Image | np.ndarray | Tensor | str | Path
SAME_ASPECT = 0.02
"""Relative difference of aspect up to which a mask of another size is stretched over its image."""


def read_mask(mask: MaskLike, size: tuple[int, int]) -> Tensor:
    """A mask of `size` (height, width) from a file, an image or an array.

    White, True, 1 or alpha 0 is regenerated; grey lies between. A mask of another size and the same aspect is
    stretched. Raises ValueError.
    """
    if isinstance(mask, (str, Path)):
        try:
            with Image.open(mask) as opened:
                opened.load()
                mask = ImageOps.exif_transpose(opened).copy()
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            raise UnreadableImage(f"mask {mask}: not an image file") from error
    values = _of_image(mask) if isinstance(mask, Image.Image) else _of_array(mask)
    if values.ndim != 2:
        raise ValueError(f"a mask must be (height, width), got {tuple(values.shape)}")
    height, width = values.shape
    if (height, width) != size:
        if abs(height / width / (size[0] / size[1]) - 1) > SAME_ASPECT:
            raise ValueError(
                f"the mask is {width} x {height} pixels, the image {size[1]} x {size[0]}; give a mask of the image's "
                "size or aspect"
            )
        values = F.interpolate(values[None, None], size=size, mode="nearest")[0, 0]
    return values


def _of_image(mask: Image.Image) -> Tensor:
    """Alpha where there is any transparency, else brightness."""
    if mask.has_transparency_data:
        alpha = np.asarray(mask.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return torch.from_numpy(1 - alpha.astype(np.float32) / 255)
    if mask.mode.startswith(("I", "F")):
        values = np.asarray(mask).astype(np.float32)
        top = float(values.max(initial=0.0))
        return torch.from_numpy(np.clip(values / (65535 if top > 255 else 255 if top > 1 else 1), 0, 1))
    return torch.from_numpy(np.asarray(mask.convert("L")).astype(np.float32) / 255)


def _of_array(mask: np.ndarray | Tensor) -> Tensor:
    """Booleans, bytes from 0 to 255, or numbers from 0 to 1."""
    values = torch.as_tensor(mask)
    scaled = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    if not torch.isfinite(scaled).all() or scaled.min() < 0 or scaled.max() > 1:
        raise ValueError("a mask's numbers must lie between 0 (kept) and 1 (regenerated)")
    return scaled


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
