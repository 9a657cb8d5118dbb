"""The recursion over scales, written once (paper, algorithms 1 and 2).

Encoding, decoding, teacher forcing and generation differ in how a scale's embeddings are chosen from what has been
accumulated; `add_scale` then adds them, upsampled and refined.
Shapes: B batch, C latent channels, V tokens of the vocabulary, (h, w) the final grid, (h_k, w_k) the grid of scale k,
l = h_k w_k.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.nn.cuda import uses_kernels
from nextscale.pyramid import ScaleSchedule, Size, TokenPyramid

Choose = Callable[[int, Tensor], Tensor]
"""(scale, accumulated (B, C, h, w)) -> codebook embeddings of that scale (B, C, h_k, w_k)."""

Refine = Callable[[int, Tensor], Tensor]
"""phi_k: (scale, upsampled embeddings (B, C, h, w)) -> (B, C, h, w)."""


@dataclass(frozen=True)
class ScaleState:
    """Result of one scale of the recursion."""

    scale: int
    embeddings: Tensor  # (B, C, h_k, w_k)
    accumulated: Tensor  # (B, C, h, w), the running sum through this scale


def downsample(features: Tensor, size: Size) -> Tensor:
    """Area-downsample (B, C, h, w) to (B, C, *size); the identity at equal size."""
    return features if tuple(features.shape[-2:]) == size else F.interpolate(features, size=size, mode="area")


def upsample(embeddings: Tensor, size: Size) -> Tensor:
    """Bicubic upsampling of (B, C, h_k, w_k) to (B, C, *size); the identity at equal size."""
    if tuple(embeddings.shape[-2:]) == size:
        return embeddings
    if embeddings.requires_grad and torch.are_deterministic_algorithms_enabled():
        return upsample_by_products(embeddings, size)
    if uses_kernels(embeddings) and embeddings.dtype == torch.float32:
        from nextscale.nn.conv_kernels import bicubic

        return bicubic(embeddings, size)
    return F.interpolate(embeddings, size=size, mode="bicubic")


def upsample_by_products(embeddings: Tensor, size: Size) -> Tensor:
    """Bicubic upsampling as two products: on CUDA, the gradient of torch's own is not the same every time."""
    rows, columns = (
        bicubic_matrix(before, after, embeddings.device)
        for before, after in zip(embeddings.shape[-2:], size, strict=True)
    )
    return rows @ embeddings @ columns.t()


@lru_cache(maxsize=64)
def bicubic_matrix(before: int, after: int, device: torch.device) -> Tensor:
    """The product with it enlarges a column of pixels, (after, before) float32."""
    columns = torch.eye(before, device=device)[None, None]
    return F.interpolate(columns, size=(after, before), mode="bicubic")[0, 0]


def add_scale(accumulated: Tensor, scale: int, embeddings: Tensor, refine: Refine) -> Tensor:
    """f_k = f_(k-1) + phi_k(upsample(e_k)), (B, C, h, w): the step of the recursion."""
    return accumulated + refine(scale, upsample(embeddings, (accumulated.shape[-2], accumulated.shape[-1])))


def accumulate(
    start: Tensor, schedule: ScaleSchedule, choose: Choose, refine: Refine
) -> Generator[ScaleState, Tensor | None, None]:
    """Run the scales coarse to fine from `start` (B, C, h, w), yielding after each.

    A caller may replace what a scale accumulated by sending a (B, C, h, w) tensor into the generator.
    """
    accumulated = start
    for scale in range(len(schedule)):
        embeddings = choose(scale, accumulated)
        accumulated = add_scale(accumulated, scale, embeddings, refine)
        replaced = yield ScaleState(scale, embeddings, accumulated)
        if replaced is not None:
            accumulated = replaced


def flatten_map(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h*w, C): a map as a sequence in raster order."""
    return features.flatten(2).transpose(1, 2)


def next_scale_inputs(states: Iterator[ScaleState], schedule: ScaleSchedule) -> Tensor:
    """Transformer input of scales 2..K under teacher forcing, (B, L - h_1 w_1, C).

    The input of scale k is what scales 1..k-1 accumulated, area-downsampled to (h_k, w_k).
    """
    inputs: list[Tensor] = []
    for state, size in zip(states, (*schedule.sizes[1:], None), strict=True):
        if size is not None:
            inputs.append(flatten_map(downsample(state.accumulated, size)))
        elif not inputs:  # a single scale is predicted from the start token alone
            return flatten_map(state.accumulated)[:, :0]
    return torch.cat(inputs, dim=1)


class Quantizer(Protocol):
    """Between features and tokens: a kind of quantizer says what it chooses, looks up and refines at a scale.

    The methods for whole pyramids follow from that. They run in float32 even under autocast, because rounding could
    change the nearest code, and so a token.
    """

    schedule: ScaleSchedule

    @property
    def vocabulary(self) -> int:
        """Number of tokens to choose from, V."""
        ...

    def zeros(self, batch: int) -> Tensor:
        """The empty accumulation f_0, (batch, C, h, w) float32."""
        ...

    def choose(self, features: Tensor) -> Tensor:
        """Tokens of a map, (B, C, h_k, w_k) -> (B, h_k, w_k) int64."""
        ...

    def lookup(self, tokens: Tensor) -> Tensor:
        """Embeddings of a token map, (B, h_k, w_k) -> (B, C, h_k, w_k)."""
        ...

    def refine(self, scale: int, upsampled: Tensor) -> Tensor:
        """phi_k, (B, C, h, w) -> same."""
        ...

    def codes(self) -> Tensor:
        """Embeddings of the whole vocabulary, (V, C)."""
        device = self.zeros(1).device
        return self.lookup(torch.arange(self.vocabulary, device=device).view(1, 1, -1))[0, :, 0].t()

    def mixture(self, weights_BLV: Tensor) -> Tensor:
        """Mixtures of codes, (B, l, V) -> (B, l, C) in the codes' type."""
        codes = self.codes()
        return weights_BLV.to(codes.dtype) @ codes

    def distances(self, vectors_BLC: Tensor) -> Tensor:
        """Squared distances of vectors to all codes, less the square of each vector, (B, l, C) -> (B, l, V).

        In the codes' type.
        """
        codes = self.codes()
        return codes.square().sum(dim=1) - 2 * vectors_BLC.to(codes.dtype) @ codes.t()

    def encoding(self, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Quantise (B, C, h, w), yielding (tokens_k, f_k) per scale (paper, algorithm 1).

        The recursion starts from -f and so accumulates minus the residual, rounded like the official subtraction.
        """
        features = features.detach()
        maps: list[Tensor] = []

        def nearest(scale: int, negative_rest: Tensor) -> Tensor:
            maps.append(self.choose(downsample(-negative_rest.detach(), self.schedule[scale])))
            return self.lookup(maps[-1])

        for state in accumulate(-features, self.schedule, nearest, self.refine):
            yield maps[-1], state.accumulated + features

    def states(self, tokens: TokenPyramid, start: Tensor | None = None) -> Iterator[ScaleState]:
        """Accumulate known tokens scale by scale (decoding and teacher forcing)."""
        zeros = self.zeros(tokens.batch_size) if start is None else start
        return accumulate(zeros, self.schedule, lambda scale, _: self.lookup(tokens[scale]), self.refine)

    def encode(self, features: Tensor) -> TokenPyramid:
        """(B, C, h, w) -> TokenPyramid (paper, algorithm 1)."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return TokenPyramid.from_maps([tokens for tokens, _ in self.encoding(features.float())], self.schedule)

    def decode(self, tokens: TokenPyramid) -> Tensor:
        """TokenPyramid -> f_K (B, C, h, w) float32 (paper, algorithm 2)."""
        with torch.autocast(tokens.packed.device.type, enabled=False):
            *_, last = self.states(tokens)
            return last.accumulated

    def teacher_forcing(self, tokens: TokenPyramid) -> Tensor:
        """Transformer input of scales 2..K, (B, L - h_1 w_1, C) float32."""
        with torch.no_grad(), torch.autocast(tokens.packed.device.type, enabled=False):
            return next_scale_inputs(self.states(tokens), self.schedule)
