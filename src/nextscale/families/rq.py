"""The residual-quantised baseline: RQ-Transformer (arXiv 2203.01941).

A spatial transformer walks the positions in raster order, reading the sum of the codes of the position before; at each
position a small depth transformer predicts its residual codes one after the other, reading the spatial state and the
sums of the codes so far. Both have VAR's blocks and see the class.
Shapes: B batch, P positions, D codes of each, C width, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from nextscale.conditions import Conditions
from nextscale.families.base import Autoregressive, Stack, unfinished_map, whole_sequence
from nextscale.families.config import TITLES
from nextscale.families.config import RQConfig as RQConfig
from nextscale.nn.block import AdaLNBlock
from nextscale.nn.linear import Linear
from nextscale.nn.transformer import Condition, Transformer
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.draw import Guidance, draw_next
from nextscale.sampling.step import SamplingConfig, ScaleSample
from nextscale.tokenizer.residual import Quantizer, flatten_map


class RQTransformer(nn.Module):
    """Spatial and depth transformer."""

    def __init__(self, config: RQConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        self.spatial = Transformer(config, head=False)
        self.by_depth = Transformer(config.depth_config)

    @property
    def device(self) -> torch.device:
        return self.spatial.device

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in (autocast aside)."""
        return self.spatial.dtype

    @property
    def blocks(self) -> Sequence[AdaLNBlock]:
        """All blocks."""
        return [*self.spatial.blocks, *self.by_depth.blocks]

    @property
    def head(self) -> Linear:
        return self.by_depth.head

    @property
    def checkpointing(self) -> bool:
        """Whether training computes blocks again in the backward pass."""
        return self.spatial.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.spatial.checkpointing = self.by_depth.checkpointing = value

    def initialise(self, *, gamma: float = 1e-3, head: float = 0.02) -> None:
        """Both transformers as VAR's."""
        self.spatial.initialise(gamma=gamma)
        self.by_depth.initialise(gamma=gamma, head=head)

    def depth_condition(self, hidden_BPC: Tensor, classes: Tensor | Conditions) -> Condition:
        """The depth transformer's condition for B P sequences: it starts from the spatial states (B, P, C).

        The rows of classes (B,) are computed once per image.
        """
        places = hidden_BPC.shape[1]
        repeated = self.by_depth.condition(classes).apply(lambda each: each.repeat_interleave(places, dim=0))
        return replace(repeated, start_BC=hidden_BPC.flatten(0, 1))

    def forward(self, latents: Tensor, classes: Tensor | Conditions) -> Tensor:
        """Teacher forcing: the codes' embeddings (B, D, P, latent_channels), classes (B,) -> (B, D P, V) float32.

        Logits are in the pyramid's order, all places of the first code, then those of the second.
        """
        sums = latents.cumsum(dim=1)  # of the codes up to and including each
        hidden_BPC = self.spatial.hidden(sums[:, -1, :-1], self.spatial.condition(classes))
        condition = self.depth_condition(hidden_BPC, classes)
        before = sums[:, :-1].transpose(1, 2).flatten(0, 1)  # (B P, D - 1, latent_channels)
        logits = self.by_depth.classify(self.by_depth.hidden(before, condition))  # (B P, D, V)
        return logits.unflatten(0, (len(latents), -1)).transpose(1, 2).flatten(1, 2)

    @staticmethod
    def inputs(quantizer: Quantizer, tokens: TokenPyramid) -> Tensor:
        """All codes, (B, D, P, latent_channels)."""
        with torch.no_grad():
            return torch.stack([flatten_map(quantizer.lookup(token_map)) for token_map in tokens], dim=1)


@torch.no_grad()
def sample_rq(
    model: RQTransformer,
    quantizer: Quantizer,
    conditions: Conditions,
    *,
    seeds: Tensor,
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch, position by position and code by code, yielding after every row of the map."""
    guidance = Guidance(config.guidance)
    both = guidance.conditions(conditions)
    condition = model.spatial.condition(both)
    by_depth = model.by_depth.condition(both)
    cache = model.spatial.new_cache(len(both))
    places, codes = model.config.positions, model.config.codes
    width = model.schedule.final[1]
    tokens = torch.zeros(len(conditions), codes, places, dtype=torch.int64, device=model.device)
    latents = None
    for place in range(places):
        state = replace(by_depth, start_BC=model.spatial.step(place, latents, condition, cache)[:, 0])
        small = model.by_depth.new_cache(len(both))
        total: Tensor | None = None
        for code in range(codes):
            read = guidance.merged(model.by_depth.step(code, total, state, small))
            logits = model.by_depth.classify(read)
            tokens[:, code, place] = draw_next(logits, place * codes + code, seeds, config)[:, 0]
            added = guidance.doubled(flatten_map(quantizer.lookup(tokens[:, code, place].view(-1, 1, 1))))
            total = added if total is None else total + added
        latents = total
        if (place + 1) % width == 0:
            yield unfinished_map(tokens.flatten(1), quantizer, place + 1)


class RQFamily(Autoregressive):
    """Residual-quantised prediction."""

    kind = "rq"
    title = TITLES["rq"]
    config = RQConfig
    network = RQTransformer
    sampler = staticmethod(sample_rq)

    def stacks(self, config: RQConfig, *, steps: int = 0, guided_scales: int = 0) -> Sequence[Stack]:
        """The spatial transformer over all positions, and the depth transformer at each of them."""
        spatial, codes = whole_sequence(config), whole_sequence(config.depth_config)
        return [replace(spatial, head_positions=0, head_outputs=0), replace(codes, times=config.positions)]

    def yields(self, config: RQConfig) -> int:
        return config.schedule.final[0]


FAMILY = RQFamily()
