"""The residual-quantised baseline: RQ-Transformer (arXiv 2203.01941).

A spatial transformer walks the positions in raster order, reading the sum of the codes of the position before; at each
position a small depth transformer predicts its residual codes one after the other, reading the spatial state and the
sums of the codes so far. Both have VAR's blocks and see the class.
Shapes: B batch, P positions, D codes of each, C width, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nextscale.families.config import RQConfig
from nextscale.families.var import VAR
from nextscale.nn.block import AdaLNBlock
from nextscale.nn.linear import Linear
from nextscale.nn.transformer import Condition, Transformer


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
