"""The masked baseline: MaskGIT (arXiv 2202.04200), all tokens at once, the most confident kept step by step.

A single token map; all positions see each other. Masked positions read a learned vector, the others their code.
Shapes: B batch, L tokens, C width, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_

from nextscale.conditions import Conditions
from nextscale.families.base import Family, Figures, Stack
from nextscale.families.config import TITLES
from nextscale.families.config import MaskGITConfig as MaskGITConfig
from nextscale.nn.transformer import Condition, Transformer
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.draw import Guidance, draw_next
from nextscale.sampling.passes import confidence, least_sure, masked_counts, random_masks
from nextscale.sampling.step import SamplingConfig, ScaleSample
from nextscale.tokenizer.residual import Quantizer, flatten_map
from nextscale.tokenizer.vqvae import VQVAE


class MaskGIT(Transformer):
    """The transformer over one part, the whole map, which is read masked."""

    config: MaskGITConfig

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__(config)
        self.masked = nn.Parameter(torch.empty(config.width))

    def initialise(self, *, gamma: float = 1e-3, head: float = 0.02) -> None:
        """As `Transformer`; the masked vector as an embedding."""
        super().initialise(gamma=gamma, head=head)
        trunc_normal_(self.masked, std=(1 / (3 * self.config.width)) ** 0.5)

    def forward(self, latents: Tensor, masked: Tensor, classes: Tensor | Conditions) -> Tensor:
        """Codes' embeddings (B, L, latent_channels), which are masked (B, L) bool, (B,) -> (B, L, V) float32."""
        return self.predict_masked(latents, masked, self.condition(classes))

    def predict_masked(self, latents: Tensor, masked: Tensor, condition: Condition) -> Tensor:
        """`forward` with a condition that is computed already."""
        words = self.word_embedding(latents.to(self.positions.dtype))
        words = torch.where(masked[..., None], self.masked.to(words.dtype), words)
        placed = self.embed(None, condition, slice(0, self.sequence.length))
        return self.classify(self.transform(placed + words, condition, groups=self.groups()))


@torch.no_grad()
def sample_masked(
    model: MaskGIT,
    quantizer: Quantizer,
    conditions: Conditions,
    *,
    seeds: Tensor,
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch, yielding after every step; guidance rises linearly from 0 at the first to the last."""
    guidance = Guidance(config.guidance)
    condition = model.condition(guidance.conditions(conditions))
    size, length = model.schedule.final, model.sequence.length
    steps = min(config.steps or model.config.sampling_steps, length)
    tokens = torch.zeros(len(conditions), length, dtype=torch.int64, device=model.device)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    for step, left in enumerate(masked_counts(length, steps)):
        latents = guidance.doubled(flatten_map(quantizer.lookup(tokens.unflatten(1, size))))
        logits = model.predict_masked(latents, guidance.doubled(masked), condition)
        logits = guidance.merged(logits, step / max(1, steps - 1))
        chosen = draw_next(logits, step, seeds, config)
        noise = model.config.choice_temperature * (1 - (step + 1) / steps)
        sure = confidence(logits, chosen, step, seeds, temperature=config.temperature, noise=noise)
        tokens = torch.where(masked, chosen, tokens)
        masked = least_sure(sure, masked, left)
        pyramid = TokenPyramid(tokens.clone(), model.schedule)
        shown = quantizer.decode(pyramid) * ~masked.view(-1, 1, *size)
        yield ScaleSample(step, pyramid[0], shown, pyramid)


class MaskGITFamily(Family):
    """Masked prediction."""

    kind = "maskgit"
    title = TITLES["maskgit"]
    config = MaskGITConfig
    network = MaskGIT
    sampler = staticmethod(sample_masked)

    def loss(
        self,
        model: Any,
        batch: TokenPyramid,
        classes: Tensor,
        *,
        tokenizer: VQVAE | None,
        config: MaskGITConfig,
        label_smoothing: float = 0.0,
        player: str = "",
    ) -> tuple[Tensor, Figures]:
        """Mean cross-entropy of masked tokens given the others (eq. 1)."""
        assert tokenizer is not None
        packed = batch.packed
        masked = random_masks(len(packed), packed.shape[1], packed.device)
        with torch.no_grad():
            latents = flatten_map(tokenizer.quantizer.lookup(batch[0]))
        logits_BLV = model(latents, masked, classes)
        loss = F.cross_entropy(logits_BLV[masked], packed[masked], label_smoothing=label_smoothing)
        with torch.no_grad():
            plain = F.cross_entropy(logits_BLV[masked], packed[masked])
            right = (logits_BLV[masked].argmax(dim=-1) == packed[masked]).float().mean()
        figures = {"loss": plain, "accuracy": right}
        return loss, figures | {f"{name}_last": value for name, value in figures.items()}

    def stacks(self, config: MaskGITConfig, *, steps: int = 0, guided_scales: int = 0) -> Sequence[Stack]:
        """The whole map at every step; the modulation once."""
        length = config.schedule.length
        return [
            Stack(
                config=config,
                sequence=ScaleSchedule([(1, length)]),
                times=steps or config.sampling_steps,
                embedded=length,
                latent_channels=config.latent_channels,
                head_positions=length,
                head_outputs=config.codebook_size,
                head_after_guidance=False,
            )
        ]


FAMILY = MaskGITFamily()
