"""`evaluate likelihood`: how well a transformer predicts the tokens of held-out images.

Shapes: B batch, L tokens, K scales, N images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.classes import match_classes
from nextscale.data.loader import NO_CLASS
from nextscale.evaluation.classification import ClassMeans, accuracy
from nextscale.evaluation.config import LikelihoodEvaluation
from nextscale.evaluation.features import load_features
from nextscale.evaluation.image_sets import ImageSet, batches, open_images_alone, require_size
from nextscale.evaluation.real import balanced_order, cached
from nextscale.evaluation.sets import require_finite
from nextscale.pipeline import VARPipeline
from nextscale.progress import Advance, Announce, silent
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.likelihood import token_log_probabilities


def evaluate_likelihood(config: LikelihoodEvaluation, *, progress: Announce = silent) -> dict[str, Any]:
    """The report. `progress` makes a function that is told how far a stage is. Raises ValueError."""
    images = open_images_alone(config.data, label_column=config.label_column, image_column=config.image_column)
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    classes = pipeline.transformer.config.classes
    order = balanced_order(images)
    require_size(images, pipeline.tokenizer.config.image_size)
    ids: tuple[int, ...] = ()  # the model's, of the data's classes
    if classes and images.class_names:
        where = f"data {config.data}"
        ids = match_classes(images.class_names, pipeline.config.class_names, where=where, classes=classes)
    if config.classify:
        require_classes(images, order, config, classes)
    tokens, labels = tokenised(
        pipeline, images, order[: max(config.count, config.classify)], config.batch_size, progress
    )
    labels = torch.tensor([*ids, NO_CLASS])[labels if ids else torch.full_like(labels, NO_CLASS)]  # which is the last
    asked = slice(config.count)
    report: dict[str, Any] = {
        "model": config.model, "precision": pipeline.precision, "data": config.data, "count": len(labels[asked]),
        "scales": [list(size) for size in pipeline.schedule],
    }  # fmt: skip
    conditions = {"with_class": labels[asked]} if (labels != NO_CLASS).all() else {}
    for name, given in (conditions | {"without_class": torch.full_like(labels[asked], classes)}).items():
        advance = progress(name.replace("_", " "), len(given))
        report[name] = predicted(pipeline, tokens.select(asked), given, config.batch_size, advance)
    if config.classify:
        told = slice(config.classify)
        report["classification"] = classification(
            config, pipeline, tokens.select(told), labels[told], images, order, progress
        )
    return report


def require_classes(images: ImageSet, order: np.ndarray, config: LikelihoodEvaluation, classes: int) -> None:
    """Raises ValueError where classes cannot be told, or the other images leave one of those told without a mean."""
    if images.labels is None or not classes:
        raise ValueError("classification needs a model with classes and images with labels")
    told, others = (set(np.asarray(images.labels)[part].tolist()) for part in np.split(order, [config.classify]))
    if config.features and not told <= others:
        count = min(config.classify, len(order))
        raise ValueError(
            f"nearest class means need other images of every class than the {count} that are told; classify fewer, or "
            "leave --features out"
        )


def tokenised(
    pipeline: VARPipeline, images: ImageSet, indices: np.ndarray, batch_size: int, progress: Announce
) -> tuple[TokenPyramid, Tensor]:
    """Tokens and labels (N,) of some images, in the order of `indices`; the data is read in its own."""
    advance = progress("tokens", len(indices))
    packed: list[Tensor] = []
    labels: list[Tensor] = []
    done = 0
    for pixels, known in batches(
        images, pipeline.tokenizer.config.image_size, batch_size=batch_size, indices=np.sort(indices)
    ):
        packed.append(pipeline.tokenizer.encode(pixels.to(pipeline.device)).packed.cpu())
        labels.append(known)
        done += len(known)
        advance(done)
    places = torch.from_numpy(np.searchsorted(np.sort(indices), indices))
    return TokenPyramid(torch.cat(packed)[places], pipeline.schedule), torch.cat(labels)[places]


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
    require_finite("nats per token", float(losses.mean()))
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
    tokens: TokenPyramid,
    labels: Tensor,
    images: ImageSet,
    order: np.ndarray,
    progress: Announce,
) -> dict[str, Any]:
    """Accuracy of telling the classes of the first images by likelihood, beside nearest class means and chance."""
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
        told, others = order[: len(labels)], order[len(labels) :]
        size = pipeline.tokenizer.config.image_size
        means = ClassMeans.of(cached(network, images, size, others, progress("class means", len(others))))
        seen = cached(network, images, size, told, progress("features", len(told)))
        if means is None:
            raise ValueError("nearest class means need images of two classes at least; leave --features out")
        report |= {
            "nearest_class_mean": means.accuracy(seen.pooled, seen.labels), "nearest_chance": 1 / len(means),
            "features": config.features, "means_of": len(others),
        }  # fmt: skip
    return report
