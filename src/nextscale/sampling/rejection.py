"""Rejection sampling: several candidates of each image, the best of which are kept (paper, section 4.1).

Shapes: N candidates of one image, C latent channels, (h, w) latent grid, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.config import TOP_SEED
from nextscale.families.table import Model
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import image_generator
from nextscale.sampling.likelihood import paired_log_probabilities
from nextscale.sampling.next_scale import ScaleSample, pyramid_of
from nextscale.tokenizer.vqvae import VQVAE

AT_ONCE = 8
"""Candidates that are judged at once."""

COARSE = 0.1
"""Share of the tokens, from the start, whose scales decide what an image shows."""

NATURALNESS = 0.2
"""Weight of the finer scales' likelihood without class, beside the coarse scales' evidence of the class."""


@dataclass(frozen=True)
class Candidates:
    """What a judge sees: candidates of one image, all of one class, and the model that made them."""

    tokens: TokenPyramid
    accumulated: Tensor  # (N, C, h, w) float32
    label: int
    model: Model
    tokenizer: VQVAE

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
    given, free = candidates_log_probabilities(candidates)
    schedule = candidates.tokens.schedule
    coarse = max((end for end in schedule.ends if end <= COARSE * schedule.length), default=schedule.ends[0])
    return (given - free)[:, :coarse].sum(dim=1) + NATURALNESS * free[:, coarse:].sum(dim=1)


def likelihood_ratio_judge(candidates: Candidates) -> Tensor:
    """How much the class explains: log p(tokens | class) - log p(tokens), in nats."""
    given, free = candidates_log_probabilities(candidates)
    return (given - free).sum(dim=1)


def candidates_log_probabilities(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """log p of each token with the class and without, (N, L) each; the same whatever the batch was."""
    model, quantizer = candidates.model, candidates.tokenizer.quantizer
    tokens = candidates.tokens.to(model.device)
    classes = torch.full((tokens.batch_size,), candidates.label, device=model.device)
    parts = zip(tokens.packed.split(AT_ONCE), classes.split(AT_ONCE), strict=True)
    pairs = [paired_log_probabilities(model, quantizer, TokenPyramid(p, tokens.schedule), c) for p, c in parts]
    given, free = zip(*pairs, strict=True)
    return torch.cat(given), torch.cat(free)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """How many candidates are drawn of each image, how many are kept, and who judges."""

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

    def best(
        self, tokens: TokenPyramid, accumulated: Tensor, labels: list[int], model: Model, tokenizer: VQVAE
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
            judged = self.judge(Candidates(tokens.select(rows), features, labels[start], model, tokenizer))
            if judged.isnan().any():  # which would be sorted before every number
                raise ValueError("the judge's scores are not numbers: its weights or the model's are damaged")
            order = judged.cpu().argsort(descending=True, stable=True)[: self.keep].tolist()
            kept += [start + row for row in order]
            scores += [float(judged[row]) for row in order]
        return kept, scores


Sample = Callable[[Tensor, Sequence[torch.Generator]], Iterator[ScaleSample]]
"""Classes (B,) and a generator each -> the scales of a batch."""


@dataclass(frozen=True)
class Drawn:
    """Finished images of a call."""

    tokens: TokenPyramid
    accumulated: Tensor  # (B, C, h, w) float32, on the CPU
    labels: list[int]
    seeds: list[int]
    scores: list[float] | None


def require_classes(model: Model, wanted: Sequence[tuple[int, int]]) -> None:
    """Raises ValueError where a label is no class."""
    if any(label == model.config.unconditional for label, _ in wanted):
        raise ValueError("rejection sampling judges how well an image shows its class; name classes")


@torch.no_grad()
def draw_best(
    model: Model,
    tokenizer: VQVAE,
    sample: Sample,
    wanted: Sequence[tuple[int, int]],
    *,
    batch_size: int,
    rejection: Rejection | None = None,
) -> Drawn:
    """Draw an image for each label and seed, `batch_size` at a time; with `rejection` the best of its candidates.

    Raises ValueError where there is no class to judge by.
    """
    if rejection is not None:
        require_classes(model, wanted)
    every = [(label, one) for label, seed in wanted for one in (rejection or Rejection()).seeds(seed)]
    packed: list[Tensor] = []
    accumulated: list[Tensor] = []
    for start in range(0, len(every), batch_size):
        part = every[start : start + batch_size]
        classes = torch.tensor([label for label, _ in part], device=model.device)
        steps = list(sample(classes, [image_generator(seed) for _, seed in part]))
        packed.append(pyramid_of(steps, model.schedule).packed.cpu())
        accumulated.append(steps[-1].accumulated.cpu())
    tokens, features = TokenPyramid(torch.cat(packed), model.schedule), torch.cat(accumulated)
    labels, seeds = [label for label, _ in every], [seed for _, seed in every]
    if rejection is None:
        return Drawn(tokens, features, labels, seeds, None)
    kept, scores = rejection.best(tokens, features, labels, model, tokenizer)
    return Drawn(tokens.select(kept), features[kept], [labels[k] for k in kept], [seeds[k] for k in kept], scores)
