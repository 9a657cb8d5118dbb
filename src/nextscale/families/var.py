"""Next-scale prediction (VAR): latents of coarser scales and a class -> logits of every token map.

Paper, sections 3.1 and 3.3.
Shapes: B batch, L tokens of the sequence, l_1 tokens of the first scale, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nextscale.conditions import Conditions
from nextscale.families.base import Autoregressive, Stack, whole_sequence
from nextscale.families.config import TITLES
from nextscale.families.config import VARConfig as VARConfig
from nextscale.nn.packed import is_quantized, unpack_linears
from nextscale.nn.transformer import Transformer
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.next_scale import sample_scales
from nextscale.tokenizer.residual import Quantizer


class VAR(Transformer):
    """The transformer over scales."""

    def forward(self, latents: Tensor, classes: Tensor | Conditions) -> Tensor:
        """Teacher forcing: latents of scales 2..K (B, L - l_1, latent_channels), (B,) -> (B, L, V) float32."""
        return self.classify(self.hidden(latents, self.condition(classes)))

    @staticmethod
    def inputs(quantizer: Quantizer, tokens: TokenPyramid) -> Tensor:
        """What coarser scales accumulated, (B, L - l_1, latent_channels)."""
        return quantizer.teacher_forcing(tokens)


class VARFamily(Autoregressive):
    """Next-scale prediction."""

    kind = "var"
    title = TITLES["var"]
    config = VARConfig
    network = VAR
    sampler = staticmethod(sample_scales)
    editable = True
    corrects_itself = True

    def compile(self, model: VAR, **options: Any) -> None:
        """Raises ValueError for int8."""
        if is_quantized(model):
            raise ValueError("int8 has kernels of its own, which are not compiled; choose another precision")
        unpack_linears(model)  # the compiler refuses packed weights: they are no constants of its graph
        model.compile_transform(**options)

    def stacks(self, config: VARConfig, *, steps: int = 0) -> Sequence[Stack]:
        return [whole_sequence(config)]


FAMILY = VARFamily()
