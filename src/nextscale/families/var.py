"""Next-scale prediction (VAR): latents of coarser scales and a class -> logits of every token map.

Paper, sections 3.1 and 3.3.
Shapes: B batch, L tokens of the sequence, l_1 tokens of the first scale, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nextscale.conditions import Conditions
from nextscale.families.base import Autoregressive, Stack, whole_sequence
from nextscale.families.config import TITLES, transformer_presets
from nextscale.families.config import VARConfig as VARConfig
from nextscale.nn.transformer import Transformer
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.step import SamplingConfig, SamplingHook, ScaleSample
from nextscale.tokenizer.residual import Quantizer
from nextscale.tokenizer.vqvae import VQVAE


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
    editable = True

    def presets(self) -> Mapping[str, VARConfig]:
        return transformer_presets()

    def sample(
        self,
        model: VAR,
        tokenizer: VQVAE | None,
        classes: Tensor | Conditions,
        *,
        generators: Sequence[torch.Generator],
        config: SamplingConfig,
        hook: SamplingHook | None = None,
    ) -> Iterator[ScaleSample]:
        assert tokenizer is not None
        quantizer = tokenizer.quantizer
        return sample_scales(model, quantizer, classes, generators=generators, config=config, hook=hook)

    def stacks(self, config: VARConfig, *, steps: int = 0) -> Sequence[Stack]:
        return [whole_sequence(config)]


FAMILY = VARFamily()
