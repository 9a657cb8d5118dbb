"""`evaluate reconstruction`: how close images are to what a tokenizer decodes from their tokens.

Shapes: B batch, K scales, N images, n images shown, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from nextscale.evaluation.image_sets import batches, open_images_alone, require_size
from nextscale.evaluation.metrics import FeatureStatistics, finite_figure, frechet_distance
from nextscale.evaluation.reference import RealImages, balanced_order, real_features
from nextscale.nn.perceptual import PerceptualDistance
from nextscale.pictures import psnr, to_float, to_uint8
from nextscale.plots import new_figure
from nextscale.progress import Announce, silent
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import resolve_device, resolve_dtype
from nextscale.tokenizer.quantizer import CodebookUsage, disturb_tokens, nearest_others
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
    count: int = 0
    psnr: list[Tensor] = field(default_factory=list)  # (K, B) each
    ssim: list[Tensor] = field(default_factory=list)  # (B,) each
    perceptual: list[float] = field(default_factory=list)  # sum over a batch
    features: list[FeatureSet] = field(default_factory=list)
    strips: list[Tensor] = field(default_factory=list)  # (n, 1 + K, 3, H, W) each

    def __post_init__(self) -> None:
        self.usage = CodebookUsage(len(self.tokenizer.schedule), self.tokenizer.config.codebook_size)

    @torch.no_grad()
    def add(self, pixels: Tensor, labels: Tensor, tokens: TokenPyramid) -> None:
        """Compare images (B, 3, H, W) in [-1, 1] with what is decoded from tokens.

        Raises ValueError where the decoder gives values that are not finite.
        """
        room = max(0, SHOWN - self.count)
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

    def figures(self, name: str) -> dict[str, Any]:
        """Means over all images, for the report; `name` is the perceptual distance's.

        Raises ValueError where one is not finite.
        """
        perceptual = finite_figure("perceptual distance", sum(self.perceptual)) / self.count
        per_scale = torch.cat(self.psnr, dim=1).mean(dim=1)
        finite_figure("PSNR", float(per_scale.mean()))
        return {
            "psnr": float(per_scale[-1]),
            "psnr_after_scale": per_scale.tolist(),
            "ssim": finite_figure("SSIM", float(torch.cat(self.ssim).mean())),
            "perceptual": None if self.distance is None else {"name": name, "distance": perceptual},
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
    clean, disturbed = (Reconstructions(tokenizer, network, distance) for _ in range(2))
    others = nearest_others(tokenizer.quantizer.codes().cpu(), config.disturb_codes) if config.disturb else None
    advance = progress("reconstructed", len(chosen))
    for pixels, labels in batches(images, size, batch_size=config.batch_size, indices=np.sort(chosen)):
        pixels = pixels.to(device)
        tokens = tokenizer.encode(pixels)
        if others is not None:
            seeds = range(config.seed + clean.count, config.seed + clean.count + len(labels))
            disturbed.add(pixels, labels, disturbed_tokens(tokens, others, config.disturb, seeds))
        clean.add(pixels, labels, tokens)
        advance(clean.count)
    report = {"model": config.model, "data": config.data, "count": clean.count}
    report |= {"scales": tokenizer.schedule.to_list(), "codes": tokenizer.config.codebook_size}
    report |= clean.figures(config.perceptual)
    if others is not None:
        report["disturbed"] = {"share": config.disturb, "nearest_codes": others.shape[1], "seed": config.seed}
        report["disturbed"] |= disturbed.figures(config.perceptual)
        del report["disturbed"]["codebook"]  # of codes that were drawn, not chosen
    if network is not None:
        split = real_features(network, images, size, config.count, progress=progress)
        features = FeatureSet.joined(clean.features)
        about = {"name": config.features, "size": features.pooled.shape[1], "identity": identity(network)}
        report |= {"features": about} | distances(features, split)
        if split.other is not None:
            report["floor"] = asdict(compare_features(split.other, split.reference))
        if others is not None:
            report["disturbed"] |= distances(FeatureSet.joined(disturbed.features), split)
    return report, torch.cat(clean.strips)


def disturbed_tokens(tokens: TokenPyramid, others: Tensor, share: float, seeds: Sequence[int]) -> TokenPyramid:
    """Tokens with a share of them replaced by near codes; each image's by a seed of its own, on any device the same."""
    rows = [
        disturb_tokens(row, others, share, generator=torch.Generator().manual_seed(seed))
        for row, seed in zip(tokens.packed.cpu().split(1), seeds, strict=True)
    ]
    return TokenPyramid(torch.cat(rows), tokens.schedule).to(tokens.packed.device)


def distances(features: FeatureSet, split: RealImages) -> dict[str, Any]:
    """Frechet distance of reconstructions to their originals, and figures against other images where there are any."""
    originals = split.reference if split.other is None else split.other
    statistics = [FeatureStatistics.of(one.pooled) for one in (features, originals)]
    found: dict[str, Any] = {"frechet_to_originals": frechet_distance(*statistics)}
    return found if split.other is None else found | {"to_others": asdict(compare_features(features, split.reference))}


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
