"""Kernel distance, KID when features are Inception's (Binkowski et al., arXiv 1801.01401, section 4)."""

from __future__ import annotations

from torch import Tensor

from nextscale.evaluation.sets import BLOCK_ROWS, require_comparable, require_finite


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of (N, D) and (M, D) with the kernel (x.y / D + 1)^3.

    All pairs are taken, so that nothing is drawn; it may fall below 0. Raises ValueError.
    """
    require_comparable(a, b, at_least=2)
    inside = sum(kernel_sum(x, x, skip_diagonal=True) / (len(x) * (len(x) - 1)) for x in (a, b))
    return require_finite("kernel distance", inside - 2 * kernel_sum(a, b) / (len(a) * len(b)))


def kernel_sum(a: Tensor, b: Tensor, *, skip_diagonal: bool = False) -> float:
    """Sum of the kernel over all pairs, in float64; without those of a row and itself where asked."""
    total = 0.0
    for start in range(0, len(a), BLOCK_ROWS):
        part = a[start : start + BLOCK_ROWS]
        kernel = (part @ b.t() / a.shape[1] + 1) ** 3
        total += float(kernel.double().sum())
        if skip_diagonal:
            total -= float(kernel[:, start : start + len(part)].diagonal().double().sum())
    return total
