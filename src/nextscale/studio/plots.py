"""Plots of the studio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nextscale.pyramid import ScaleSchedule


def residual_plot(norms: Sequence[float], schedule: ScaleSchedule) -> Any:
    """Root mean square of what is left of the latents, from none of the scales to all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(norms)), norms, marker="o", color="#6b3fa0")
    axes.set_xticks(range(len(norms)), ["none", *(f"{height}x{width}" for height, width in schedule)])
    axes.set_xlabel("scales added up")
    axes.set_ylabel("root mean square left")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure
