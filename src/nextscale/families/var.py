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
from nextscale.families.base import Autoregressive, Stack, parts_of, whole_sequence
from nextscale.families.config import TITLES
from nextscale.families.config import VARConfig as VARConfig
from nextscale.nn.packed import is_quantized, unpack_linears
from nextscale.nn.transformer import Condition, Transformer
from nextscale.pyramid import TokenPyramid
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

    def stacks(self, config: VARConfig, *, steps: int = 0, guided_scales: int = 0) -> Sequence[Stack]:
        """All scales, the guided ones first, and the last one again in each of its `steps` passes but the first."""
        scales = len(config.scales)
        guided = doubled_scales(scales, guided_scales)
        return [
            *guided_first(whole_sequence(config), guided),
            *further_passes(config, steps, guided=guided == scales),
        ]

    def steps_of(self, sampling: SamplingConfig) -> int:
        return sampling.refine_steps


def doubled_scales(scales: int, guided_scales: int) -> int:
    """How many scales are computed twice, from the first; the ramp of guidance is 0 at the first of several."""
    guided = guided_scales or scales
    return 0 if guided == 1 < scales else guided


def guided_first(stack: Stack, guided: int) -> list[Stack]:
    """A stack whose first parts are guided, as one or two."""
    if not guided or guided >= len(stack.sequence):
        return [replace(stack, guided=guided > 0)]
    later = parts_of(stack, guided, len(stack.sequence))
    return [parts_of(stack, 0, guided), replace(later, guided=False)]


def further_passes(config: VARConfig, steps: int, *, guided: bool) -> list[Stack]:
    """The last scale in each of its `steps` passes but the first; none where it is drawn at once."""
    whole, passes = whole_sequence(config), min(steps, config.schedule.lengths[-1])
    if passes <= 1:
        return []
    last = parts_of(whole, len(config.scales) - 1, len(config.scales))
    return [replace(last, times=passes - 1, conditions=0, guided=guided)]


FAMILY = VARFamily()
