"""Rejection sampling: several candidates of each image, the best of which are kept (paper, section 4.1).

Judges score candidates: the model's own likelihood, or a classifier.
Shapes: N candidates of one image, C latent channels, (h, w) latent grid, (H, W) pixels.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.classes import imagenet_ids
from nextscale.conditions import ANY_CLASS, Choices, Conditions, reads_prompts
from nextscale.config import TOP_SEED
from nextscale.environment import quiet_warnings
from nextscale.nn.perceptual import classes_told, imagenet_normalised, load_backbone
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.likelihood import paired_log_probabilities
from nextscale.sampling.noise import image_seeds
from nextscale.sampling.step import ScaleSample, pyramid_of
from nextscale.tokenizer.vqvae import VQVAE

AT_ONCE = 8
"""Candidates whose likelihood is computed at once."""

COARSE = 0.1
"""Share of the tokens, from the first on, that decide what an image shows."""

NATURALNESS = 0.2
"""Weight of the finer scales' likelihood without class, beside the coarse scales' evidence of the class."""


@dataclass(frozen=True)
class Candidates:
    """What a judge sees: candidates of one image, all of one class, and the model that made them."""

    tokens: TokenPyramid
    accumulated: Tensor  # (N, C, h, w) float32
    label: int
    model: Any
    tokenizer: VQVAE
    choices: Choices = ANY_CLASS
    "What the label is one of."

    def images(self) -> Tensor:
        """(N, 3, H, W) in [-1, 1]."""
        return self.tokenizer.decode_each(self.accumulated)


Judge = Callable[[Candidates], Tensor]
"""A score per candidate, (N,); larger is better."""


def likelihood_judge(candidates: Candidates) -> Tensor:
    """The model itself, in nats: how much the class explains of the coarse scales, how natural the finer ones are.

    log p(coarse | class) - log p(coarse) + 0.2 log p(fine | coarse), with coarse the scales within the first tenth of
    the tokens, one at least.
    """
    conditional, unconditional = candidates_log_probabilities(candidates)
    schedule = candidates.tokens.schedule
    coarse = max((end for end in schedule.ends if end <= COARSE * schedule.length), default=schedule.ends[0])
    evidence = (conditional - unconditional)[:, :coarse].sum(dim=1)
    return evidence + NATURALNESS * unconditional[:, coarse:].sum(dim=1)


def likelihood_ratio_judge(candidates: Candidates) -> Tensor:
    """How much the class explains: log p(tokens | class) - log p(tokens), in nats."""
    conditional, unconditional = candidates_log_probabilities(candidates)
    return (conditional - unconditional).sum(dim=1)


def candidates_log_probabilities(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """log p of each token with the class and without, (N, L) each; the same whatever the batch was."""
    model, quantizer = candidates.model, candidates.tokenizer.quantizer
    tokens = candidates.tokens.to(model.device)
    parts = [TokenPyramid(part, tokens.schedule) for part in tokens.packed.split(AT_ONCE)]
    pairs = [
        paired_log_probabilities(
            model, quantizer, part, candidates.choices.conditions([candidates.label] * part.batch_size, model.device)
        )
        for part in parts
    ]
    conditional, unconditional = zip(*pairs, strict=True)
    return torch.cat(conditional), torch.cat(unconditional)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """How many candidates are drawn of each image, how many are kept, and what scores them."""

    candidates: int = 1
    "Candidates drawn of each image."
    keep: int = 1
    "Best ones kept of each image."
    judge: Judge = likelihood_judge
    "Scores candidates; larger is better."

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.candidates:
            raise ValueError(
                f"keep must be at least 1 and at most the number of candidates, got {self.keep} of {self.candidates}"
            )

    def seeds(self, seed: int) -> list[int]:
        """Seeds of an image's candidates, seed x candidates + j: no two images share one. Huge ones wrap around."""
        return [(seed * self.candidates + number) % (TOP_SEED + 1) for number in range(self.candidates)]

    def ranked(self, scores: Tensor) -> list[int]:
        """The candidates that are kept of an image, best first, by their scores (N,). Raises ValueError for NaN."""
        if scores.isnan().any():  # which would be sorted before every number
            raise ValueError("the judge's scores are not numbers: its weights or the model's are damaged")
        return scores.cpu().argsort(descending=True, stable=True)[: self.keep].tolist()

    def best(
        self,
        tokens: TokenPyramid,
        accumulated: Tensor,
        labels: list[int],
        model: Any,
        tokenizer: VQVAE,
        choices: Choices = ANY_CLASS,
    ) -> tuple[list[int], list[float]]:
        """Rows that are kept, each image's together and best first, and their scores.

        Rows hold the candidates of one image after the other. Each image is judged by itself: scores do not depend
        on the batch.
        """
        kept: list[int] = []
        scores: list[float] = []
        for start in range(0, len(labels), self.candidates):
            rows = slice(start, start + self.candidates)
            features = accumulated[rows].to(model.device)
            judged = self.judge(Candidates(tokens.select(rows), features, labels[start], model, tokenizer, choices))
            order = self.ranked(judged)
            kept += [start + row for row in order]
            scores += [float(judged[row]) for row in order]
        return kept, scores


@dataclass(frozen=True)
class Drawn:
    """Finished images of a call: one of each list per image."""

    tokens: TokenPyramid
    accumulated: Tensor  # (B, C, h, w) float32
    labels: list[int]
    seeds: list[int]
    scores: list[float] | None


def require_classes(model: Any, wanted: Sequence[tuple[int, int]]) -> None:
    """Raises ValueError where a label is no class, unless it is the number of a prompt."""
    if not reads_prompts(model.config) and any(label == model.config.unconditional for label, _ in wanted):
        raise ValueError("rejection sampling judges how well an image shows its class; name classes")


class Drawing:
    """Images that are being drawn, one for each label and seed; with `rejection` several candidates of each.

    Raises ValueError where there is no class to judge by.
    """

    def __init__(
        self,
        model: Any,
        wanted: Sequence[tuple[int, int]],
        rejection: Rejection | None = None,
        choices: Choices = ANY_CLASS,
    ) -> None:
        if rejection is not None:
            require_classes(model, wanted)
        self.model, self.rejection, self.choices = model, rejection, choices
        candidates = rejection or Rejection()
        self.wanted = [(label, one) for label, seed in wanted for one in candidates.seeds(seed)]
        self.packed: list[Tensor] = []
        self.accumulated: list[Tensor] = []

    @classmethod
    def in_batches(
        cls,
        model: Any,
        wanted: Sequence[tuple[int, int]],
        size: int,
        rejection: Rejection | None = None,
        choices: Choices = ANY_CLASS,
    ) -> Iterator[Drawing]:
        """A drawing for each batch of at most `size` candidates, or of one image that has more. Raises ValueError."""
        if len(wanted) == 0:
            raise ValueError("no seeds given; expected one per image")
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, or 0 for a default, got {size}")
        if rejection is not None:
            require_classes(model, wanted)  # of all images, before the first is drawn
        images = max(1, size // (rejection or Rejection()).candidates)
        for start in range(0, len(wanted), images):
            yield cls(model, wanted[start : start + images], rejection, choices)

    def parts(self, size: int) -> Iterator[tuple[Tensor | Conditions, Tensor]]:
        """Conditions, or classes, and seeds of `size` candidates at a time; `add` takes what they become."""
        for start in range(0, len(self.wanted), size):
            part = self.wanted[start : start + size]
            conditions = self.choices.conditions([label for label, _ in part], self.model.device)
            yield conditions, image_seeds([seed for _, seed in part], self.model.device)

    def add(self, steps: Sequence[ScaleSample]) -> None:
        """Keep a finished batch."""
        self.packed.append(pyramid_of(steps, self.model.schedule).packed)
        self.accumulated.append(steps[-1].accumulated)

    def finish(self, tokenizer: VQVAE) -> Drawn:
        """All images; with `rejection` the best of each image's candidates, best first, and their scores."""
        tokens, features = TokenPyramid(torch.cat(self.packed), self.model.schedule), torch.cat(self.accumulated)
        labels, seeds = [label for label, _ in self.wanted], [seed for _, seed in self.wanted]
        if self.rejection is None:
            return Drawn(tokens, features, labels, seeds, None)
        kept, scores = self.rejection.best(tokens, features, labels, self.model, tokenizer, self.choices)
        return Drawn(tokens.select(kept), features[kept], [labels[k] for k in kept], [seeds[k] for k in kept], scores)


LIKELIHOOD = {"likelihood": likelihood_judge, "likelihood-ratio": likelihood_ratio_judge}
"""The model's own judges."""

CLASSES = 1000
"""Classes of torchvision's own weights."""


class ClassifierJudge:
    """log of the probability that a classifier gives the candidate's class."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, candidates: Candidates) -> Tensor:
        if candidates.choices.prompts is not None:
            raise ValueError("classifiers judge classes; for prompts use the judge likelihood or likelihood-ratio")
        images = candidates.images()
        logits = self.network.to(images.device)(imagenet_normalised(images))
        return logits.float().log_softmax(dim=1)[:, candidates.label]


def load_rejection(
    candidates: int, keep: int, judge: str, *, classes: int, class_names: Sequence[str] = ()
) -> Rejection | None:
    """What `--candidates`, `--keep` and `--judge` ask for; None for one candidate. Raises ValueError."""
    if candidates == keep == 1:
        return None
    chosen = load_judge(judge, classes=classes, class_names=class_names)
    return Rejection(candidates=candidates, keep=keep, judge=chosen)


def load_judge(name: str, *, classes: int, class_names: Sequence[str] = ()) -> Judge:
    """`likelihood`, `likelihood-ratio`, a torchvision classifier or the file of one, of `classes` classes.

    A file names no classes: they are those of the model, in its order. Torchvision's own are ImageNet's. Raises
    ValueError.
    """
    if name in LIKELIHOOD:
        return LIKELIHOOD[name]
    from torchvision import models
    from torchvision.models import list_models

    path = Path(name)
    if path.is_file():
        network, known = classifier_of(path)
        require_as_many(name, known, classes)
        return ClassifierJudge(network)
    if name not in list_models(module=models):
        raise ValueError(
            f"judge {name!r} is neither likelihood nor likelihood-ratio, nor a classifier of torchvision "
            "such as resnet50, nor a file"
        )
    require_as_many(name, CLASSES, classes)
    if class_names and imagenet_ids(class_names) != list(range(CLASSES)):
        raise ValueError(
            f"judge {name}: tells ImageNet's classes in their order, the model's are others "
            f"({', '.join(class_names[:3])}, ...); give the file of a classifier of the model's classes"
        )
    return ClassifierJudge(load_backbone(name))


def require_as_many(judge: str, known: int, classes: int) -> None:
    """Raises ValueError where a classifier has another number of classes than the model."""
    if known != classes:
        raise ValueError(
            f"judge {judge}: tells {known} classes, the model has {classes}; give a classifier of the model's classes"
        )


def classifier_of(path: Path) -> tuple[nn.Module, int]:
    """A torchvision classifier from its state dict, and how many classes it has.

    The architecture is the one whose tensors have these names and, but for the last layer, these shapes.
    Raises ValueError.
    """
    from torchvision.models import get_model

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        inner = {key: tuple(value.shape)[1:] for key, value in state.items()}
        classes = classes_told(state)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of weights ({str(error).splitlines()[0]})") from error
    for name, wanted in architectures().items():
        if wanted != inner:
            continue
        network = get_model(name, weights=None, num_classes=classes)
        try:
            network.load_state_dict(state)
        except RuntimeError:
            continue
        return network, classes
    raise ValueError(f"{path}: holds the tensors of no torchvision classifier")


@lru_cache(maxsize=1)
def architectures() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes, without the first side, of all tensors of torchvision's classifiers, by name.

    Those that compute while they are built (RegNets) cannot be built on the meta device and are left out.
    """
    from torchvision import models
    from torchvision.models import get_model, list_models

    known = {}
    for name in list_models(module=models):
        with suppress(NotImplementedError), quiet_warnings(), torch.device("meta"):
            network = get_model(name, weights=None)
            known[name] = {key: tuple(value.shape)[1:] for key, value in network.state_dict().items()}
    return known
