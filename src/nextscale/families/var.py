"""Next-scale prediction (VAR): latents of coarser scales and a class -> logits of every token map.

Paper, sections 3.1 and 3.3.
Shapes: B batch, L tokens of the sequence, l_1 tokens of the first scale, l_K of the last, C width, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.conditions import Conditions
from nextscale.families.base import Autoregressive, Stack, whole_sequence
from nextscale.families.config import TITLES
from nextscale.families.config import VARConfig as VARConfig
from nextscale.nn.packed import is_quantized, unpack_linears
from nextscale.nn.transformer import Condition, Transformer
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.passes import known_codes
from nextscale.sampling.step import SamplingConfig
from nextscale.tokenizer.residual import Quantizer, flatten_map


class VAR(Transformer):
    """The transformer over scales.

    A refinable one may know some tokens of the last map already: what it reads there holds their codes, and `known`, a
    learned vector, tells that it does.
    """

    config: VARConfig

    def __init__(self, config: VARConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.known = nn.Parameter(torch.zeros(config.width)) if config.refinable else None

    def forward(self, latents: Tensor, classes: Tensor | Conditions, known: Tensor | None = None) -> Tensor:
        """Teacher forcing: latents of scales 2..K (B, L - l_1, latent_channels), (B,) -> (B, L, V) float32.

        `known` (B, l_K) bool says where the latents hold tokens of the last map, as those of `inputs` do.
        """
        marks = {} if known is None else {"known": F.pad(known, (latents.shape[1] - known.shape[1], 0))}
        return self.classify(self.hidden(latents, self.condition(classes), **marks))

    def embed(self, latents: Tensor | None, condition: Condition, span: slice, known: Tensor | None = None) -> Tensor:
        """As `Transformer`; `known` (B, l) bool marks positions whose latents hold their own codes."""
        x_BLC = super().embed(latents, condition, span)
        if known is None:
            return x_BLC
        assert self.known is not None, "only refinable models know tokens"
        return x_BLC + known.unsqueeze(-1) * self.known

    @staticmethod
    def inputs(quantizer: Quantizer, tokens: TokenPyramid, known: Tensor | None = None) -> Tensor:
        """What coarser scales accumulated, (B, L - l_1, latent_channels).

        Where tokens of the last map are `known`, (B, l_K) bool, their codes are added.
        """
        latents = quantizer.teacher_forcing(tokens)
        if known is None:
            return latents
        last = tokens[len(tokens) - 1]
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            codes = flatten_map(known_codes(quantizer, last, known.view(last.shape)))
        return latents + F.pad(codes, (0, 0, latents.shape[1] - codes.shape[1], 0))


class VARFamily(Autoregressive):
    """Next-scale prediction."""

    kind = "var"
    title = TITLES["var"]
    config = VARConfig
    network = VAR
    sampler = staticmethod(sample_scales)
    editable = True
    corrects_itself = True
    refines = True

    def compile(self, model: VAR, **options: Any) -> None:
        """Raises ValueError for int8."""
        if is_quantized(model):
            raise ValueError("int8 has kernels of its own, which are not compiled; choose another precision")
        unpack_linears(model)  # the compiler refuses packed weights: they are no constants of its graph
        model.compile_transform(**options)

    def stacks(self, config: VARConfig, *, steps: int = 0) -> Sequence[Stack]:
        """All scales, and the last one again in each of its `steps` passes but the first."""
        whole, last = whole_sequence(config), config.schedule.lengths[-1]
        passes = min(steps, last)
        if passes <= 1:
            return [whole]
        again = replace(
            whole, sequence=ScaleSchedule([config.schedule.final]), times=passes - 1, embedded=last,
            head_positions=last, conditions=0, known=config.schedule.length - last,
        )  # fmt: skip
        return [whole, again]

    def steps_of(self, sampling: SamplingConfig) -> int:
        return sampling.refine_steps


FAMILY = VARFamily()
