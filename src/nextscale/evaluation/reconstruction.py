"""`evaluate reconstruction`: what a tokenizer keeps of images.

Shapes: B batch, K scales, N images, (H, W) pixels.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.catalogue import find_model
from nextscale.evaluation.comparison import compare
from nextscale.evaluation.config import ReconstructionEvaluation
from nextscale.evaluation.features import FeatureSet, identity, load_features
from nextscale.evaluation.frechet import FeatureStatistics, frechet_distance
from nextscale.evaluation.image_sets import batches, open_images_alone, require_size
from nextscale.evaluation.real import balanced_order, real_features
from nextscale.evaluation.sets import require_finite
from nextscale.pictures import to_float, to_uint8
from nextscale.progress import Announce, silent
from nextscale.runtime import resolve_device, resolve_dtype
from nextscale.tokenizer.quantizer import CodebookUsage

NONE = "none"
"""As a network: leave its figure out."""
SHOWN = 12
"""Images of the picture of strips."""


def evaluate_reconstruction(
    config: ReconstructionEvaluation,
    *,
    progress: Announce = silent,
) -> tuple[dict[str, Any], Tensor]:
    """The report, and pictures: originals followed by the images after each scale of a few, (n, 1 + K, 3, H, W).

    Reconstructions are rounded to 8 bits, as PNG files hold them. `progress` makes a function that is told how far
    a stage is. Raises ValueError.
    """
    from nextscale.nn.perceptual import PerceptualDistance

    images = open_images_alone(config.data, label_column=config.label_column, image_column=config.image_column)
    device = resolve_device(config.device)
    network = None if config.features == NONE else load_features(config.features, config.feature_weights).to(device)
    distance = None
    if config.perceptual != NONE:
        distance = PerceptualDistance(config.perceptual, weights=config.perceptual_weights).to(device)
    tokenizer = find_model(config.model).tokenizer().to(device).eval()
    tokenizer.set_decoder_dtype(resolve_dtype(config.precision, device))
    size = tokenizer.config.image_size
    require_size(images, size)

    # Other images, the reference of `evaluate generation`, come first in the order.
    order = balanced_order(images)
    enough = len(order) >= 2 * config.count
    chosen = order[config.count : 2 * config.count] if enough else order[: config.count]
    usage = CodebookUsage(len(tokenizer.schedule), tokenizer.config.codebook_size)
    figures: list[Tensor] = []
    similar: list[Tensor] = []
    perceived: list[float] = []
    features: list[FeatureSet] = []
    shown: list[Tensor] = []
    advance = progress("reconstructed", len(chosen))
    done = 0
    for pixels, labels in batches(images, size, batch_size=config.batch_size, indices=np.sort(chosen)):
        pixels = pixels.to(device)
        tokens = tokenizer.encode(pixels)
        usage.add(tokens.to("cpu"))
        errors: list[Tensor] = []
        strips = [pixels[: max(0, SHOWN - done)].cpu()]
        last = pixels
        for stage in tokenizer.decode_scales(tokens):  # one at a time: all of them are K times a batch of images
            if not torch.isfinite(stage).all():  # rounded, it would be black
                raise ValueError("reconstructions hold values that are not finite; try --precision fp32")
            last = rounded(stage)
            errors.append(psnr(pixels, last).cpu())
            strips.append(last[: max(0, SHOWN - done)].cpu())
        figures.append(torch.stack(errors))
        shown.append(torch.stack(strips, dim=1))
        similar.append(structural_similarity(last, pixels).cpu())
        if distance is not None:
            with torch.no_grad():
                perceived.append(float(distance(last, pixels)) * len(labels))
        if network is not None:
            pooled, logits = network.outputs(last)
            features.append(FeatureSet(pooled.cpu(), logits.cpu(), labels))
        done += len(labels)
        advance(done)
    per_scale = torch.cat(figures, dim=1).mean(dim=1)
    similarity = float(torch.cat(similar).mean())
    for name, value in (
        ("PSNR", float(per_scale.mean())),
        ("SSIM", similarity),
        ("perceptual distance", sum(perceived)),
    ):
        require_finite(name, value)
    summary = usage.summary()
    report: dict[str, Any] = {
        "model": config.model, "data": config.data, "count": done,
        "scales": [list(one) for one in tokenizer.schedule], "codes": tokenizer.config.codebook_size,
        "psnr": float(per_scale[-1]), "psnr_after_scale": per_scale.tolist(),
        "ssim": similarity,
        "perceptual": {"name": config.perceptual, "distance": sum(perceived) / done} if perceived else None,
        "codebook": {name: value.tolist() for name, value in summary.items()},
    }  # fmt: skip
    if network is not None:
        split = real_features(network, images, size, config.count, progress=progress)
        mine = FeatureSet.joined(features)
        originals = split.reference if split.other is None else split.other
        report["features"] = {"name": config.features, "size": mine.pooled.shape[1], "identity": identity(network)}
        report["frechet_to_originals"] = frechet_distance(*(FeatureStatistics.of(f.pooled) for f in (mine, originals)))
        if split.other is not None:
            report["to_others"], report["floor"] = (asdict(compare(f, split.reference)) for f in (mine, split.other))
    return report, torch.cat(shown)


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (..., 3, H, W) in [-1, 1] -> (...)."""
    error = (images.float() - reconstructions.float()).square().flatten(-3).mean(dim=-1)
    return 10 * (4 / error.clamp_min(1e-10)).log10()


def structural_similarity(images: Tensor, targets: Tensor) -> Tensor:
    """SSIM of each image with a Gaussian window of 11 (Wang et al., 2004), (B, 3, H, W) in [-1, 1] -> (B,)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(images, targets, data_range=2.0, reduction="none")
    assert isinstance(values, Tensor)
    return values


def rounded(images: Tensor) -> Tensor:
    """As an 8-bit file holds them."""
    return to_float(to_uint8(images))
