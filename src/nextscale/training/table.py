"""A token cache in a GPU's memory: a batch is gathered there instead of being read and copied in every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nextscale.data.captions import Captions
from nextscale.data.tokens import TokenCache, TokenCacheConfig
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.training.transfer import to_device

CHUNK = 4096
"""Images that are read at once."""
SHARE = 4
"""The tokens may take up to this part of the free memory."""


@dataclass(frozen=True)
class TokenTable:
    """All tokens and labels of a cache; for batches the same as the cache."""

    config: TokenCacheConfig
    tokens: Tensor
    "(N * views, L) int16 on the device: the bits of uint16, which few operations take."
    labels: Tensor
    "(N,) int64 on the CPU."
    captions: Captions | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray, views: np.ndarray | int = 0) -> tuple[TokenPyramid, Tensor]:
        """Tokens on the device and labels (B,) of some images, each in one view."""
        rows = to_device(torch.from_numpy(indices * self.config.views + views), self.tokens.device)
        packed = self.tokens.index_select(0, rows).long() & 0xFFFF
        return TokenPyramid(packed, ScaleSchedule(self.config.scales)), self.labels[torch.from_numpy(indices)]


def token_table(cache: TokenCache, device: torch.device) -> TokenTable:
    """Read a whole cache into a device's memory."""
    views, length = cache.config.views, cache.schedule.length
    tokens = torch.empty(len(cache), views * length, dtype=torch.int16, device=device)
    labels = torch.empty(len(cache), dtype=torch.int64)
    for start in range(0, len(cache), CHUNK):
        rows = cache.rows[start : start + CHUNK]
        span = slice(start, start + len(rows["label"]))
        packed = np.asarray(rows["tokens"]).astype(np.uint16).view(np.int16).reshape(-1, views * length)
        tokens[span] = torch.from_numpy(packed).to(device)
        labels[span] = torch.from_numpy(np.asarray(rows["label"], dtype=np.int64))
    return TokenTable(cache.config, tokens.view(-1, length), labels, cache.captions)


def table_or_cache(cache: TokenCache, device: torch.device) -> TokenCache | TokenTable:
    """On CUDA a table of the cache where that fits, else the cache itself."""
    if device.type != "cuda":
        return cache
    size = 2 * len(cache) * cache.config.views * cache.schedule.length
    return token_table(cache, device) if size * SHARE <= torch.cuda.mem_get_info(device)[0] else cache
