"""The noise of an image: a function of its seed and of where it is used, computed there, the same on every device.

Philox4x64-10 (Salmon et al., 2011), a counter-based generator, with numpy's numbering of counters: the key is
(seed, stream), and a counter (block, step, 0, 0) gives eight numbers of 32 bits, those of eight tokens in a row.
Triton's kernels compute the same numbers on CUDA (`sampling.kernels`).
Shapes: B batch, L positions, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nextscale.config import require_seed
from nextscale.nn.cuda import uses_kernels

TOKENS = 0
"""The stream that tokens are drawn from; those of the further regions of an edit are 1, 2, ..."""
CONFIDENCES = 2**20
"""The stream of MaskGIT's confidences, beyond those of regions."""
BLOCK = 8
"""Numbers of 32 bits that a counter gives; a position begins with a block."""
UNIT = 2.0**-31 - 2.0**-55
"""What 31 bits are multiplied by: the largest float32 below 2^-31, so that no rounding leads to 1 and endless noise."""


def image_seeds(seeds: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """A seed per image, as samplers take them: (B,) int64 on the device, where nothing then waits for the host.

    A tensor is taken as it is. Raises ValueError for numbers that are no seeds.
    """
    if isinstance(seeds, Tensor):
        return seeds.to(device)
    for seed in seeds:
        require_seed(seed)
    return torch.tensor(list(seeds), dtype=torch.int64, device=device)


def gumbel_noise(seeds: Tensor, step: int, length: int, size: int, *, stream: int = TOKENS) -> Tensor:
    """-log of exponential noise of each image, (B, length, size) float32, on the device of the seeds (B,).

    The exponential is -log(1 - u) with u from 31 random bits, never 0 or 1; small values, which decide, keep float32's
    relative precision. `step` tells the draws of an image apart: its scale, place or step.
    """
    if uses_kernels(seeds):
        from nextscale.sampling.kernels import gumbel_table

        return gumbel_table(seeds, step, length, size, stream=stream)
    bits = torch.from_numpy(random_bits(seeds.tolist(), step, length, size, stream=stream))
    uniform = bits.to(seeds.device).float().add_(0.5).mul_(UNIT)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def random_bits(seeds: Sequence[int], step: int, length: int, size: int, *, stream: int = TOKENS) -> np.ndarray:
    """31 random bits for every token, (B, length, size) int32."""
    blocks = -(-size // BLOCK)  # of a position
    # torch's memory, not numpy's: that asks for huge pages, and whatever uses them next would wait for zeros.
    words = torch.empty(len(seeds), length * blocks * BLOCK // 2, dtype=torch.int64).numpy().view("<u8")
    for image, seed in zip(words, seeds, strict=True):
        image[:] = np.random.Philox(key=[seed, stream], counter=[0, step, 0, 0]).random_raw(image.size)
    halves = words.view("<u4").reshape(len(seeds), length, blocks * BLOCK)[..., :size]
    return np.right_shift(halves, 1, out=halves).view(np.int32)
