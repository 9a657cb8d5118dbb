"""Stage 1 on images that are not trained on: what is kept after each scale, and how the codes are used.

Shapes: B batch, K scales, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nextscale.data.loader import iterate_images
from nextscale.data.source import ImageSource
from nextscale.pictures import grid, save_image, to_float, to_images
from nextscale.progress import Announce, silent
from nextscale.runtime import autocast
from nextscale.tokenizer.usage import CodebookUsage
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.split import spread

if TYPE_CHECKING:
    from nextscale.training.tokenizer import TokenizerTraining

BATCH = 16
"""Images between two looks at whether to stop."""


@torch.no_grad()
def measure(
    model: VQVAE,
    images: ImageSource,
    config: TokenizerTraining,
    dtype: torch.dtype,
    picture: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    announce: Announce = silent,
) -> dict[str, Any] | None:
    """PSNR, PSNR after each scale and codebook usage of `heldout_images` images, spread evenly; a sheet of strips.

    Of all of them the codes are counted; every scale is decoded of `decoded_images` of them. None when `stop` said so.
    """
    device = model.quantizer.codebook.device
    chosen = spread(len(images), config.heldout_images)
    decoded = chosen[spread(len(chosen), config.decoded_images)]
    usage = CodebookUsage(len(model.schedule), config.model.codebook_size, device)
    errors: list[Tensor] = []
    strips = torch.empty(0)
    advance, done = announce("measuring", len(chosen) + len(decoded)), 0
    model.eval()
    for indices, decode in ((chosen, False), (decoded, True)):
        for batch in iterate_images(images, config.model.image_size, batch_size=BATCH, indices=indices.tolist()):
            if stop():
                model.train()
                return None
            pixels = to_float(batch.images.to(device))
            with autocast(device, dtype):
                tokens = model.encode(pixels)
                stages = torch.stack(list(model.decode_scales(tokens))) if decode else None  # (K, B, 3, H, W)
            if stages is None:
                usage.add(tokens)
            else:
                errors.append((stages - pixels).square().flatten(2).mean(dim=2))
                if not len(strips):  # (images, 1 + K, 3, H, W)
                    strips = torch.cat([pixels[None], stages.float()]).transpose(0, 1)[:8]
            done += len(pixels)
            advance(done)
    model.train()
    if not errors:
        raise ValueError(f"heldout {config.heldout or config.data}: none of the images that are measured can be read")
    save_image(grid(to_images(strips.flatten(0, 1)), columns=strips.shape[1]), picture)
    squared = torch.cat(errors, dim=1)  # (K, images), of values in [-1, 1]
    psnr = (10 * torch.log10(4 / squared)).mean(dim=1)
    plain = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in usage.summary().items()}
    return {"psnr": float(psnr[-1]), "psnr_after": psnr.tolist(), **plain}


def describe(measured: dict[str, Any]) -> str:
    """The line of a measurement."""
    perplexity = ", ".join(f"{value:.0f}" for value in measured["perplexity"])
    return f"PSNR {measured['psnr']:.2f} dB, codes used {measured['used']:.1%}, perplexity {perplexity}"
