"""The residual-quantised baseline: RQ-Transformer (arXiv 2203.01941).

A spatial transformer walks the positions in raster order, reading the sum of the codes of the position before; at each
position a small depth transformer predicts its residual codes one after the other, reading the spatial state and the
sums of the codes so far. Both have VAR's blocks and see the class.
Shapes: B batch, P positions, D codes of each, C width, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextscale.config import require_at_least
from nextscale.models.transformer import Condition, Transformer, TransformerConfig
from nextscale.models.var import VAR
from nextscale.nn.block import AdaLNBlock
from nextscale.nn.linear import Linear
from nextscale.pyramid import ScaleSchedule


@dataclass(frozen=True, kw_only=True)
class RQConfig(TransformerConfig):
    """Architecture of the RQ-Transformer; its tokenizer repeats one scale."""

    scales: tuple[tuple[int, int], ...] = ((8, 8),) * 4
    "One token map's size (height, width), once per residual code: the tokenizer's."
    depth_blocks: int = 4
    "Blocks of the depth transformer; those of the spatial one are `depth`."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "depth_blocks")
        if len(set(self.scales)) != 1:
            raise ValueError(
                "an RQ-Transformer reads residual codes of one resolution; train a tokenizer that repeats a scale, "
                "such as --scales 8,8,8,8"
            )

    @property
    def positions(self) -> int:
        """Places of the map, P."""
        return self.schedule.lengths[0]

    @property
    def codes(self) -> int:
        """Residual codes of a place, D."""
        return len(self.scales)

    @property
    def sequence(self) -> ScaleSchedule:
        """The spatial transformer's: one position after the other."""
        return ScaleSchedule([1] * self.positions)

    @property
    def depth_config(self) -> TransformerConfig:
        """The depth transformer's: a sequence of D codes."""
        shared = {
            name: getattr(self, name)
            for name in (
                "heads",
                "codebook_size",
                "latent_channels",
                "classes",
                "shared_adaln",
                "adaln",
                "qk_normalisation",
            )
        }
        return TransformerConfig(depth=self.depth_blocks, scales=((1, 1),) * self.codes, drop_path=0.0, **shared)


class RQTransformer(nn.Module):
    """Spatial and depth transformer."""

    def __init__(self, config: RQConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        self.spatial = Transformer(config)
        self.by_depth = VAR(config.depth_config)

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

    def depth_condition(self, hidden_BPC: Tensor, classes: Tensor) -> Condition:
        """What the depth transformer starts from at places with these spatial states, of classes (B,): B P sequences.

        The class's rows are computed once per image.
        """
        condition, places = self.by_depth.condition(classes), hidden_BPC.shape[1]
        rows = [row.repeat_interleave(places, dim=0) for row in condition.rows]
        assert condition.head_rows_B2C is not None
        head_rows = condition.head_rows_B2C.repeat_interleave(places, dim=0)
        return Condition(hidden_BPC.flatten(0, 1), rows, head_rows)

    def forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Teacher forcing: the codes' embeddings (B, D, P, latent_channels), classes (B,) -> (B, D P, V) float32.

        Logits are in the pyramid's order, all places of the first code, then those of the second.
        """
        sums = latents.cumsum(dim=1)  # of the codes through each
        hidden_BPC = self.spatial.hidden(sums[:, -1, :-1], self.spatial.condition(classes))
        condition = self.depth_condition(hidden_BPC, classes)
        before = sums[:, :-1].transpose(1, 2).flatten(0, 1)  # (B P, D - 1, latent_channels)
        logits = self.by_depth.predict(before, condition)  # (B P, D, V)
        return logits.unflatten(0, (len(classes), -1)).transpose(1, 2).flatten(1, 2)
