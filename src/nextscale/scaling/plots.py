"""The paper's plots of scaling laws (figures 5 to 7), with its exponents beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.files import complete_file
from nextscale.scaling.report import FIGURES, PUBLISHED

TITLES = {
    "loss": "loss, all scales", "loss_last": "loss, last scale", "error": "token error, all scales",
    "error_last": "token error, last scale",
}  # fmt: skip


def plot_laws(results: Sequence[dict[str, Any]], report: dict[str, Any], path: Path) -> None:
    """Each figure over parameters (top) and over training FLOPs (bottom), with fits and the paper's slopes."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7.5), layout="constrained")
    panels = figure.subplots(2, 4)
    for column, name in enumerate(FIGURES):
        laws = report[name]
        sizes = np.array([one["parameters"] for one in results]) / 1e6
        values = np.array([one[name] for one in results])
        law = laws["parameters"]
        top, bottom = panels[0, column], panels[1, column]
        top.loglog(sizes, values, "o", color="tab:blue")
        label = f"$({law['scale'] * 1e6:.3g}\\,N)^{{{law['exponent']:.3g}}}$, r = {law['correlation']:.4f}"
        top.loglog(sizes, curve(law, 1e6 * sizes), color="tab:blue", label=label)
        drawn(top, sizes, values, PUBLISHED["parameters"][name][1])
        top.set_xlabel("parameters N, millions")
        top.set_title(TITLES[name], fontsize="medium")
        top.legend(fontsize="small")
        for place, one in enumerate(results):
            shade = colormaps["viridis"](0.9 * place / max(1, len(results) - 1))
            flops = [point["flops"] / 1e15 for point in one["curve"]]
            bottom.loglog(flops, [point[name] for point in one["curve"]], color=shade, label=f"d{one['depth']}")
        if "compute_frontier" in laws:
            law = laws["compute_frontier"]
            ends = np.array([point["flops"] for point in laws["frontier"]]) / 1e15
            label = f"$({law['scale'] * 1e15:.3g}\\,C)^{{{law['exponent']:.3g}}}$"
            bottom.loglog(ends, curve(law, 1e15 * ends), "k--", label=label)
            drawn(bottom, ends, curve(law, 1e15 * ends), PUBLISHED["compute"][name][1])
        bottom.set_xlabel("training compute C, PFLOP")
        bottom.legend(fontsize="x-small")
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=110)


def curve(law: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Values of a power law."""
    return np.exp(law["log_factor"] + law["exponent"] * np.log(x))


def drawn(axes: Any, sizes: np.ndarray, values: np.ndarray, exponent: float) -> None:
    """The paper's slope through the middle of our points: its data, tokenizer and sizes are others."""
    middle = np.exp(np.log(sizes).mean()), np.exp(np.log(values).mean())
    axes.loglog(
        sizes, middle[1] * (sizes / middle[0]) ** exponent, color="tab:gray", linestyle=":",
        label=f"the paper's exponent, {exponent:g}",
    )  # fmt: skip
