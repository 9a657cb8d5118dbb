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
from nextscale.evaluation.comparison import ClassMeans
from nextscale.evaluation.config import LikelihoodEvaluation
from nextscale.evaluation.features import load_features
from nextscale.evaluation.image_sets import ImageSet, batches, open_images_alone, require_size
from nextscale.evaluation.metrics import accuracy, finite_figure
from nextscale.evaluation.reference import balanced_order, cached_features
from nextscale.pipeline import VARPipeline
from nextscale.progress import Advance, Announce, silent
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.likelihood import require_likelihoods, token_log_probabilities


def evaluate_likelihood(config: LikelihoodEvaluation, *, progress: Announce = silent) -> dict[str, Any]:
    """The report. `progress` announces a stage and returns the function that shows its progress. Raises ValueError."""
    images = open_images_alone(config.data, **config.columns)
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    require_likelihoods(pipeline.transformer)
    if pipeline.reads_prompts:
        raise ValueError(f"model {config.model}: draws from prompts; its run's heldout_loss is measured with captions")
    classes = pipeline.transformer.config.classes
    order = balanced_order(images)
    require_size(images, pipeline.tokenizer.config.image_size)
    ids: tuple[int, ...] = ()  # the model's id of each class of the data
    if classes and images.class_names:
        where = f"data {config.data}"
        ids = match_classes(images.class_names, pipeline.config.class_names, where=where, classes=classes)
    if config.classify:
        require_classifiable(images, order, config, classes)
    needed = order[: max(config.count, config.classify)]
    tokens, labels = tokenise(pipeline, images, needed, config.batch_size, progress)
    labels = torch.tensor([*ids, NO_CLASS])[labels if ids else torch.full_like(labels, NO_CLASS)]  # -1 finds the last
    predicted = slice(config.count)
    report: dict[str, Any] = {"model": config.model, "precision": pipeline.precision, "data": config.data}
    report |= {"count": len(labels[predicted]), "scales": pipeline.schedule.to_list()}
    conditions = {"with_class": labels[predicted]} if (labels != NO_CLASS).all() else {}
    conditions["without_class"] = torch.full_like(labels[predicted], classes)
    for name, condition in conditions.items():
        advance = progress(name.replace("_", " "), len(condition))
        report[name] = prediction_figures(pipeline, tokens.select(predicted), condition, config.batch_size, advance)
    if config.classify:
        first = slice(config.classify)
        report["classification"] = classification_figures(
            config, pipeline, tokens.select(first), labels[first], images, order, progress
        )
    return report


def require_classifiable(images: ImageSet, order: np.ndarray, config: LikelihoodEvaluation, classes: int) -> None:
    """Raises ValueError where images cannot be classified, or a class among them has no other images for its mean."""
    if images.labels is None or not classes:
        raise ValueError("classification needs a model with classes and images with labels")
    classified, others = (set(np.asarray(images.labels)[part]) for part in np.split(order, [config.classify]))
    if config.features and not classified <= others:
        count = min(config.classify, len(order))
        raise ValueError(
            f"nearest class means need other images of every class than the {count} that are told; classify fewer, or "
            "leave --features out"
        )


def tokenise(
    pipeline: VARPipeline, images: ImageSet, indices: np.ndarray, batch_size: int, progress: Announce
) -> tuple[TokenPyramid, Tensor]:
    """Tokens and labels (N,) of some images, in the order of `indices`; images are read in the order of the data."""
    advance = progress("tokens", len(indices))
    tokenizer, ordered = pipeline.tokenizer, np.sort(indices)
    packed: list[Tensor] = []
    labels: list[Tensor] = []
    for pixels, known in batches(images, tokenizer.config.image_size, batch_size=batch_size, indices=ordered):
        packed.append(tokenizer.encode(pixels.to(pipeline.device)).packed.cpu())
        labels.append(known)
        advance(sum(map(len, labels)))
    places = torch.from_numpy(np.searchsorted(ordered, indices))
    return TokenPyramid(torch.cat(packed)[places], pipeline.schedule), torch.cat(labels)[places]


def prediction_figures(
    pipeline: VARPipeline, tokens: TokenPyramid, classes: Tensor, batch_size: int, advance: Advance
) -> dict[str, Any]:
    """Loss and accuracy of all tokens and per scale, and the bits per pixel of coding them (ideal entropy coder)."""
    sums = torch.zeros(2, pipeline.schedule.length, dtype=torch.float64)
    for start in range(0, len(classes), batch_size):
        rows = slice(start, start + batch_size)
        known, condition = tokens.select(rows).to(pipeline.device), classes[rows].to(pipeline.device)
        probabilities, right = token_log_probabilities(
            pipeline.transformer, pipeline.tokenizer.quantizer, known, condition
        )
        sums += torch.stack([-probabilities.cpu().double().sum(dim=0), right.cpu().double().sum(dim=0)])
        advance(min(start + batch_size, len(classes)))
    losses, right = sums / len(classes)
    finite_figure("nats per token", float(losses.mean()))
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


def classification_figures(
    config: LikelihoodEvaluation,
    pipeline: VARPipeline,
    tokens: TokenPyramid,
    labels: Tensor,
    images: ImageSet,
    order: np.ndarray,
    progress: Announce,
) -> dict[str, Any]:
    """Share of the first images whose likeliest class is their own, beside nearest class means and chance."""
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
        classified, others = order[: len(labels)], order[len(labels) :]
        size = pipeline.tokenizer.config.image_size
        means = ClassMeans.of(cached_features(network, images, size, others, progress("class means", len(others))))
        seen = cached_features(network, images, size, classified, progress("features", len(classified)))
        if means is None:
            raise ValueError("nearest class means need images of two classes at least; leave --features out")
        report |= {"nearest_class_mean": means.accuracy(seen.pooled, seen.labels), "nearest_chance": 1 / len(means)}
        report |= {"features": config.features, "means_of": len(others)}
    return report
