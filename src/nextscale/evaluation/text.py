"""`evaluate text`: whether images drawn of a prompt are recognised among real images with captions.

Images drawn of a prompt are averaged in the features of a frozen network, and all answers are ordered by their cosine
similarity to that mean. The same for images of another prompt, and for the tokenizer's reconstruction of a right image,
stands beside.

Shapes: N real images, Q questions, S images drawn of each, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nextscale.data.source import ImageSource, open_source
from nextscale.evaluation.config import TextEvaluation
from nextscale.evaluation.features import Network, identity, load_features
from nextscale.evaluation.image_sets import batches
from nextscale.evaluation.questions import Question, asked, places_of
from nextscale.evaluation.reference import cached_features
from nextscale.pictures import save_image, sheet, to_images, to_tensor
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce, silent
from nextscale.runtime import resolve_device

logger = logging.getLogger("nextscale")

SHOWN = 16
"""Questions whose images are shown."""


@dataclass(frozen=True)
class Gallery:
    """Real images with captions, and their features."""

    sources: list[ImageSource]
    features: Tensor
    "(N, D) of length 1."
    captions: list[tuple[str, ...]]
    places: Mapping[str, list[int]]
    "The images that carry a caption."

    def images(self, indices: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Some images, (n, 3, H, W) in [-1, 1], in this order."""
        starts = np.cumsum([0, *map(len, self.sources)])
        found = []
        for index in indices:
            part = int(np.searchsorted(starts, index, side="right")) - 1
            inside = np.array([index - starts[part]])
            found += [pixels for pixels, _ in batches(self.sources[part], size, batch_size=1, indices=inside)]
        return torch.cat(found)


def evaluate_text(config: TextEvaluation, *, progress: Announce = silent) -> dict[str, Any]:
    """The report; OUT/recognised.png shows images beside the right and the nearest real ones. Raises ValueError."""
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    if not pipeline.reads_prompts:
        raise ValueError(f"model {config.model}: draws classes; evaluate text measures models of prompts")
    size = pipeline.tokenizer.config.image_size
    network = load_features(config.features, config.feature_weights).to(resolve_device(config.device))
    named = [one.rstrip("/") for one in (config.data, *config.others.split(",")) if one]
    for one in {one for one in named if named.count(one) > 1}:
        logger.info("%s: named more than once, counted once", one)
    sources = [open_source(one, **config.columns, **config.captions) for one in dict.fromkeys(named)]
    captions = [own for source in sources for own in map(source.captions_of, range(len(source)))]
    places = places_of(captions)
    questions = asked(config, [sources[0].captions_of(index) for index in range(len(sources[0]))], places)
    parts = [
        cached_features(network, source, size, np.arange(len(source)), progress("real", len(source))).pooled
        for source in sources
    ]
    gallery = Gallery(sources, F.normalize(torch.cat(parts)), captions, places)

    right = gallery.images([places[question.name][0] for question in questions], size)
    rebuilt = features_of_each(network, reconstructed(pipeline, right, config.batch_size))
    points: list[dict[str, Any]] = []
    drawn: list[tuple[list[Image.Image], Tensor]] = []
    for guidance in config.guidances or (config.guidance,):
        advance = progress("drawn" if guidance is None else f"guidance {guidance:g}", len(questions) * config.samples)
        settings = config.sampling() | ({} if guidance is None else {"guidance": guidance})
        images = draw(pipeline, questions, config, settings, advance)
        means = features_of_each(network, images, config.samples)
        own = [rank(gallery, question, mean) for question, mean in zip(questions, means, strict=True)]
        turned = means[shuffled_places(questions)]
        shuffled = [rank(gallery, question, mean) for question, mean in zip(questions, turned, strict=True)]
        settled = pipeline.sampling(**settings).guidance
        points.append({"guidance": settled, "drawn": figures(own), "shuffled": figures(shuffled), "ranks": own})
        drawn.append((images, means))
    best = max(range(len(points)), key=lambda place: points[place]["drawn"]["first"])
    save_image(shown(gallery, questions, right, drawn[best], size), Path(config.out) / "recognised.png")
    answers = [1 + len(others(gallery, question, torch.zeros(len(captions)))) for question in questions]
    return {
        "model": config.model, "data": config.data, "others": config.others, "images": len(captions),
        "features": {"name": config.features, "size": gallery.features.shape[1], "identity": identity(network)},
        "count": len(questions), "samples": config.samples, "seed": config.seed, "precision": pipeline.precision,
        "chance": sum(1 / number for number in answers) / len(answers),
        "reconstructed": figures([rank(gallery, one, mean) for one, mean in zip(questions, rebuilt, strict=True)]),
        "points": points, "best": points[best]["guidance"],
        "questions": [
            {"prompt": one.prompt, "name": one.name, "answers": n} for one, n in zip(questions, answers, strict=True)
        ],
    }  # fmt: skip


def shuffled_places(questions: Sequence[Question]) -> list[int]:
    """For each question the place of one about another name, the first from half the list on."""
    count, found = len(questions), []
    for place, question in enumerate(questions):
        after = [(place + count // 2 + step) % count for step in range(count)]
        found.append(next((each for each in after if questions[each].name != question.name), after[0]))
    return found


def rank(gallery: Gallery, question: Question, features: Tensor) -> int:
    """Place of the right answer, from 1, by the similarity of each answer's nearest image to features (D,)."""
    similar = gallery.features @ F.normalize(features, dim=0)
    right = gallery.places[question.name]
    return 1 + int((others(gallery, question, similar) >= similar[right].max()).sum())


def others(gallery: Gallery, question: Question, similar: Tensor) -> Tensor:
    """Similarity (answers,) of each wrong answer's nearest image, of `similar` (N,); right images are in none."""
    wrong = torch.ones(len(gallery.captions), dtype=torch.bool)
    wrong[gallery.places[question.name]] = False
    if not question.candidates:
        return similar[wrong]
    similar = similar.masked_fill(~wrong, -torch.inf)
    nearest = torch.stack([similar[gallery.places[name]].max() for name in question.candidates])
    return nearest[nearest.isfinite()]


def figures(ranks: Sequence[int]) -> dict[str, float]:
    """Shares of questions whose right answer is the first, with its standard error, or among the first five."""
    found = np.array(ranks)
    first = float((found == 1).mean())
    error = float(np.sqrt(first * (1 - first) / len(found)))
    return {
        "first": first, "first_error": error, "first_five": float((found <= 5).mean()),
        "median_rank": float(np.median(found)),
    }  # fmt: skip


def draw(
    pipeline: VARPipeline, questions: Sequence[Question], config: TextEvaluation, settings: dict[str, Any], advance: Any
) -> list[Image.Image]:
    """S x Q images: all questions with the first seeds, then all with the next."""
    prompts = [question.prompt for question in questions]
    seeds = range(config.seed, config.seed + config.samples * len(prompts))
    images: list[Image.Image] = []
    for drawn in pipeline.generate_batches(prompts, seeds=seeds, batch_size=config.batch_size, **settings):
        images += drawn.images
        advance(len(images))
    return images


@torch.no_grad()
def reconstructed(pipeline: VARPipeline, images: Tensor, batch_size: int) -> list[Image.Image]:
    """What the tokenizer makes of images (n, 3, H, W)."""
    tokenizer = pipeline.tokenizer
    return [
        image
        for part in images.split(batch_size)
        for image in to_images(tokenizer.decode(tokenizer.encode(part.to(pipeline.device))))
    ]


def features_of_each(network: Network, images: Sequence[Image.Image], samples: int = 1) -> Tensor:
    """S x Q images -> means over S of their features of length 1, (Q, D)."""
    device = next(network.parameters()).device
    pixels = (
        to_tensor([np.asarray(image) for image in images[start : start + 64]]) for start in range(0, len(images), 64)
    )
    features = F.normalize(torch.cat([network(part.to(device)).cpu() for part in pixels]))
    return features.view(samples, -1, features.shape[1]).mean(dim=0)


def shown(
    gallery: Gallery,
    questions: Sequence[Question],
    right: Tensor,
    drawn: tuple[list[Image.Image], Tensor],
    size: tuple[int, int],
) -> Image.Image:
    """A row per question: the images drawn of it, the right image, and the real one that is nearest to them all."""
    images, means = drawn
    rows = np.unique(np.linspace(0, len(questions) - 1, min(SHOWN, len(questions))).astype(np.int64)).tolist()
    nearest = [int((gallery.features @ means[row]).argmax()) for row in rows]
    found = to_images(gallery.images(nearest, size))
    shown: list[Image.Image] = []
    names: list[str] = []
    for row, index, near in zip(rows, nearest, found, strict=True):
        own = images[row :: len(questions)]
        shown += [*own, to_images(right[row : row + 1])[0], near]
        names += [questions[row].prompt, *[""] * (len(own) - 1), "real", f"nearest: {gallery.captions[index][0]}"]
    return sheet(shown, names, columns=len(images) // len(questions) + 2)
