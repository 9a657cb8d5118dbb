"""`evaluate likelihood`: how well a transformer predicts the tokens of held-out images.

Shapes: B batch, L tokens, K scales, N images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.config import require_at_least
from nextscale.data.loader import NO_CLASS
from nextscale.evaluation.classification import accuracy, class_means, nearest_mean
from nextscale.evaluation.features import load_features
from nextscale.evaluation.frechet import FeatureStatistics
from nextscale.evaluation.image_sets import ImageSet, batches, open_image_set
from nextscale.evaluation.real import balanced_order, cached
from nextscale.pipeline import VARPipeline
from nextscale.progress import Advance, Announce, silent
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.likelihood import token_log_probabilities


@dataclass(frozen=True, kw_only=True)
class LikelihoodEvaluation:
    """Settings of `nextscale evaluate likelihood`."""

    data: str
    "Held-out images: folder, parquet, WebDataset, hub id."
    model: str = "demo"
    "Model whose predictions are measured."
    count: int = 5000
    "Images whose tokens are predicted, classes in turn."
    classify: int = 0
    "Images that are classified by the class under which their tokens are likeliest: one pass per class."
    features: str = ""
    "Network for nearest class means beside it, such as mobilenet_v2; the means are of other images."
    feature_weights: str = ""
    "File with that network's weights; without it, they are fetched."
    precision: str = "auto"
    "auto, fp32, bf16, fp16, int8 (CPU)."
    device: str = "auto"
    "auto, cpu, cuda, mps."
    batch_size: int = 16
    "Images at once."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "count", "batch_size")
        require_at_least(self, 0, "classify")


def evaluate_likelihood(config: LikelihoodEvaluation, *, progress: Announce = silent) -> dict[str, Any]:
    """The report. `progress` makes a function that is told how far a stage is. Raises ValueError."""
    images = open_image_set(config.data)
    if isinstance(images, FeatureStatistics):
        raise ValueError(f"{config.data}: holds statistics; expected images")
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    classes = pipeline.transformer.config.classes
    order = balanced_order(images)
    require_known_labels(images, config.data, classes)
    chosen = order[: config.count]
    tokens, labels = tokenised(pipeline, images, np.sort(chosen), config.batch_size, progress)
    report: dict[str, Any] = {
        "model": config.model, "precision": pipeline.precision, "data": config.data, "count": len(labels),
        "scales": [list(size) for size in pipeline.schedule],
    }  # fmt: skip
    conditions = {"with_class": labels} if (labels != NO_CLASS).all() and classes else {}
    for name, given in (conditions | {"without_class": torch.full_like(labels, classes)}).items():
        advance = progress(name.replace("_", " "), len(labels))
        report[name] = predicted(pipeline, tokens, given, config.batch_size, advance)
    if config.classify:
        if not conditions:
            raise ValueError("classification needs a model with classes and images with labels")
        told = order[: config.classify]
        if config.features and len(np.unique(np.asarray(images.labels)[order[len(told) :]])) < classes:  # pyright: ignore
            raise ValueError(
                f"nearest class means need other images of every class than the {len(told)} that are told; "
                "classify fewer, or leave --features out"
            )
        report["classification"] = classification(config, pipeline, images, order, told, progress)
    return report


def require_known_labels(images: ImageSet, spec: str, classes: int) -> None:
    """Raises ValueError when the data has labels that the model does not know."""
    labels = getattr(images, "labels", None)
    if classes and labels is not None and len(labels) and max(labels) >= classes:
        raise ValueError(f"data {spec}: has a class {max(labels)}, the model knows 0 to {classes - 1}")


def tokenised(
    pipeline: VARPipeline, images: ImageSet, indices: np.ndarray, batch_size: int, progress: Announce
) -> tuple[TokenPyramid, Tensor]:
    """Tokens and labels (N,) of some images."""
    advance = progress("tokens", len(indices))
    packed: list[Tensor] = []
    labels: list[Tensor] = []
    done = 0
    for pixels, known in batches(images, pipeline.tokenizer.config.image_size, batch_size=batch_size, indices=indices):
        packed.append(pipeline.tokenizer.encode(pixels.to(pipeline.device)).packed.cpu())
        labels.append(known)
        done += len(known)
        advance(done)
    return TokenPyramid(torch.cat(packed), pipeline.schedule), torch.cat(labels)


def predicted(
    pipeline: VARPipeline, tokens: TokenPyramid, classes: Tensor, batch_size: int, advance: Advance
) -> dict[str, Any]:
    """Loss and accuracy of all tokens, per scale and at the last, and what the tokens cost per pixel."""
    sums = torch.zeros(2, pipeline.schedule.length, dtype=torch.float64)
    for start in range(0, len(classes), batch_size):
        rows = slice(start, start + batch_size)
        probabilities, right = token_log_probabilities(
            pipeline.transformer, pipeline.tokenizer.quantizer, tokens.select(rows).to(pipeline.device),
            classes[rows].to(pipeline.device),
        )  # fmt: skip
        sums += torch.stack([-probabilities.cpu().double().sum(dim=0), right.cpu().double().sum(dim=0)])
        advance(min(start + batch_size, len(classes)))
    losses, right = sums / len(classes)
    height, width = pipeline.tokenizer.config.image_size
    return {
        "nats_per_token": float(losses.mean()),
        "bits_per_pixel": float(losses.sum()) / math.log(2) / (height * width),
        "accuracy": float(right.mean()),
        "nats_per_token_by_scale": by_scale(losses, pipeline.schedule),
        "accuracy_by_scale": by_scale(right, pipeline.schedule),
    }


def by_scale(values: Tensor, schedule: ScaleSchedule) -> list[float]:
    """Mean of the values (L,) of each scale."""
    return [float(values[schedule.slice(scale)].mean()) for scale in range(len(schedule))]


def classification(
    config: LikelihoodEvaluation,
    pipeline: VARPipeline,
    images: ImageSet,
    order: np.ndarray,
    told: np.ndarray,
    progress: Announce,
) -> dict[str, Any]:
    """Accuracy of telling classes by likelihood, beside nearest class means and chance."""
    tokens, labels = tokenised(pipeline, images, np.sort(told), config.batch_size, progress)
    advance = progress("classified", len(labels))
    guesses: list[Tensor] = []
    for start in range(0, len(labels), config.batch_size):
        part = tokens.select(slice(start, start + config.batch_size))
        guesses.append(pipeline.class_log_likelihoods(part).argmax(dim=1).cpu())
        advance(min(start + config.batch_size, len(labels)))
    classes = pipeline.transformer.config.classes
    report = {"count": len(labels), "accuracy": accuracy(torch.cat(guesses), labels), "chance": 1 / classes}
    if config.features:
        network = load_features(config.features, config.feature_weights).to(pipeline.device)
        others = order[len(told) :]
        size = pipeline.tokenizer.config.image_size
        known = cached(network, images, config.data, size, others, progress("class means", len(others)))
        means = class_means(known.pooled, known.labels, classes)
        seen = cached(network, images, config.data, size, told, progress("features", len(told)))
        nearest = accuracy(nearest_mean(seen.pooled, means), seen.labels)
        report |= {"nearest_class_mean": nearest, "features": config.features, "means_of": len(others)}
    return report
