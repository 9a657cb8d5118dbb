"""`evaluate reconstruction`: how close images are to what a tokenizer decodes from their tokens.

Shapes: B batch, K scales, N images, n images shown, (H, W) pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.catalogue import find_tokenizer
from nextscale.evaluation.comparison import compare_features
from nextscale.evaluation.config import ReconstructionEvaluation
from nextscale.evaluation.features import FeatureSet, Network, features_of, identity, load_features
from nextscale.evaluation.image_sets import ImageSet, batches, open_images_alone, require_size
from nextscale.evaluation.metrics import FeatureStatistics, finite_figure, frechet_distance
from nextscale.evaluation.reference import balanced_order, real_features
from nextscale.nn.perceptual import PerceptualDistance
from nextscale.pictures import psnr, to_float, to_uint8
from nextscale.plots import new_figure
from nextscale.progress import Announce, silent
from nextscale.runtime import resolve_device, resolve_dtype
from nextscale.tokenizer.quantizer import CodebookUsage
from nextscale.tokenizer.vqvae import VQVAE

NONE = "none"
"""As the name of a network: its figure is left out."""
SHOWN = 12
"""Images in the picture of strips."""


@dataclass
class Reconstructions:
    """Figures of reconstructed images, batch by batch."""

    tokenizer: VQVAE
    network: Network | None
    distance: PerceptualDistance | None
    usage: CodebookUsage
    count: int = 0
    psnr: list[Tensor] = field(default_factory=list)  # (K, B) each
    ssim: list[Tensor] = field(default_factory=list)  # (B,) each
    perceptual: list[float] = field(default_factory=list)  # sum over a batch
    features: list[FeatureSet] = field(default_factory=list)
    strips: list[Tensor] = field(default_factory=list)  # (n, 1 + K, 3, H, W) each

    @torch.no_grad()
    def add(self, pixels: Tensor, labels: Tensor) -> None:
        """Reconstruct images (B, 3, H, W) in [-1, 1]. Raises ValueError where the decoder gives values not finite."""
        room = max(0, SHOWN - self.count)
        tokens = self.tokenizer.encode(pixels)
        self.usage.add(tokens.to("cpu"))
        last, errors, strip = pixels, [], [pixels[:room].cpu()]
        for stage in self.tokenizer.decode_scales(tokens):  # one at a time: all of them are K batches of images
            if not torch.isfinite(stage).all():  # rounded, it would be black
                raise ValueError("reconstructions hold values that are not finite; try --precision fp32")
            last = rounded(stage)
            errors.append(psnr(pixels, last).cpu())
            strip.append(last[:room].cpu())
        self.psnr.append(torch.stack(errors))
        self.strips.append(torch.stack(strip, dim=1))
        self.ssim.append(structural_similarity(last, pixels).cpu())
        if self.distance is not None:
            self.perceptual.append(float(self.distance(last, pixels)) * len(labels))
        if self.network is not None:
            self.features.append(features_of(self.network, last, labels))
        self.count += len(labels)

    def figures(self) -> dict[str, Any]:
        """Means over all images, for the report. Raises ValueError where one is not finite."""
        per_scale = torch.cat(self.psnr, dim=1).mean(dim=1)
        finite_figure("PSNR", float(per_scale.mean()))
        return {
            "psnr": float(per_scale[-1]),
            "psnr_after_scale": per_scale.tolist(),
            "ssim": finite_figure("SSIM", float(torch.cat(self.ssim).mean())),
            "perceptual": finite_figure("perceptual distance", sum(self.perceptual)) / self.count,
            "codebook": {name: value.tolist() for name, value in self.usage.summary().items()},
        }


def evaluate_reconstruction(
    config: ReconstructionEvaluation, *, progress: Announce = silent
) -> tuple[dict[str, Any], Tensor]:
    """The report, and a few originals each with the images after every scale, (n, 1 + K, 3, H, W).

    Reconstructions are rounded to 8 bits, as PNG files hold them. `progress` announces a stage and returns the
    function that shows its progress. Raises ValueError.
    """
    images = open_images_alone(config.data, **config.columns)
    device = resolve_device(config.device)
    network = None if config.features == NONE else load_features(config.features, config.feature_weights).to(device)
    distance = None
    if config.perceptual != NONE:
        distance = PerceptualDistance(config.perceptual, weights=config.perceptual_weights).to(device)
    tokenizer = find_tokenizer(config.model).to(device).eval()
    tokenizer.set_decoder_dtype(resolve_dtype(config.precision, device))
    size = tokenizer.config.image_size
    require_size(images, size)

    order = balanced_order(images)
    enough = len(order) >= 2 * config.count  # then the first images are the reference, as in `evaluate generation`
    chosen = order[config.count : 2 * config.count] if enough else order[: config.count]
    usage = CodebookUsage(len(tokenizer.schedule), tokenizer.config.codebook_size)
    found = Reconstructions(tokenizer, network, distance, usage)
    advance = progress("reconstructed", len(chosen))
    for pixels, labels in batches(images, size, batch_size=config.batch_size, indices=np.sort(chosen)):
        found.add(pixels.to(device), labels)
        advance(found.count)
    report = {"model": config.model, "data": config.data, "count": found.count}
    report |= {"scales": tokenizer.schedule.to_list(), "codes": tokenizer.config.codebook_size}
    report |= found.figures()
    report["perceptual"] = None if distance is None else {"name": config.perceptual, "distance": report["perceptual"]}
    if network is not None:
        report |= compared(FeatureSet.joined(found.features), network, images, size, config, progress)
    return report, torch.cat(found.strips)


def compared(
    features: FeatureSet,
    network: Network,
    images: ImageSet,
    size: tuple[int, int],
    config: ReconstructionEvaluation,
    progress: Announce,
) -> dict[str, Any]:
    """Frechet distance of reconstructions to their originals, and figures against other images where there are any."""
    split = real_features(network, images, size, config.count, progress=progress)
    originals = split.reference if split.other is None else split.other
    statistics = [FeatureStatistics.of(one.pooled) for one in (features, originals)]
    report: dict[str, Any] = {
        "features": {"name": config.features, "size": features.pooled.shape[1], "identity": identity(network)},
        "frechet_to_originals": frechet_distance(*statistics),
    }
    if split.other is not None:
        report["to_others"], report["floor"] = (
            asdict(compare_features(one, split.reference)) for one in (features, split.other)
        )
    return report


def structural_similarity(images: Tensor, targets: Tensor) -> Tensor:
    """SSIM of each image with a Gaussian window of 11 (Wang et al., 2004), (B, 3, H, W) in [-1, 1] -> (B,)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(images, targets, data_range=2.0, reduction="none")
    assert isinstance(values, Tensor)
    return values


def rounded(images: Tensor) -> Tensor:
    """Images in [-1, 1] as a file of 8 bits holds them."""
    return to_float(to_uint8(images))


def plot_reconstruction(report: dict[str, Any], path: Path) -> None:
    """PSNR after each scale, and the usage and perplexity of each scale's codes, of `evaluate reconstruction`."""
    names = ["x".join(map(str, size)) for size in report["scales"]]
    book = report["codebook"]
    panels = {
        "PSNR after the scale, dB": report["psnr_after_scale"],
        "share of codes used": book["used_per_scale"],
        "perplexity of the codes": book["perplexity"],
    }
    with new_figure(path, 10, 3.4) as figure:
        for axes, (title, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            axes.plot(range(len(names)), values, marker="o", color="tab:blue")
            axes.set_xticks(range(len(names)), names)
            axes.set_title(title, fontsize="medium")
            axes.tick_params(axis="x", rotation=45)
