"""What all plots share (matplotlib, extra `eval`), and the plot of a tokenizer's codebook in training.

Other plots are in the modules of what they show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.errors import require
from nextscale.files import complete_file
from nextscale.pyramid import ScaleSchedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("nextscale.plots")

FORMATS = (".png", ".svg", ".pdf")


def require_plots(file: str) -> None:
    """Raises ValueError where matplotlib is missing or cannot write such a file."""
    if Path(file).suffix not in FORMATS:
        raise ValueError(f"--plot {file}: expected a file that ends in {', '.join(FORMATS)}")
    require("a plot", "matplotlib")


@lru_cache(maxsize=1)
def can_plot() -> bool:
    """Whether matplotlib is installed; if not, logs so once."""
    try:
        require("drawing the figures, which are all in the files,", "matplotlib")
    except ValueError as error:
        logger.info("no picture: %s", error)
        return False
    return True


@contextmanager
def new_figure(path: Path, width: float, height: float, *, dpi: int = 120) -> Iterator[Figure]:
    """An empty figure of a size in inches; at the end it is written to `path`, which appears when complete."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=dpi)


def viridis(place: int, count: int, low: float = 0.0, high: float = 0.9) -> Any:
    """Colour number `place` of `count`, evenly from `low` to `high` of the colour map's range 0..1."""
    from matplotlib import colormaps

    return colormaps["viridis"](low + (high - low) * place / max(1, count - 1))


def plot_codebook(schedule: ScaleSchedule, lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Usage and perplexity of every scale over the steps of a tokenizer run, from its metric lines."""
    logged = [line for line in lines if "perplexity" in line]
    steps = [line["step"] for line in logged]
    with new_figure(path, 9, 3.6) as figure:
        panels = figure.subplots(1, 2)
        titles = {"used_per_scale": "share of codes used", "perplexity": "perplexity"}
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            for scale, (height, width) in enumerate(schedule):
                values = [line[name][scale] for line in logged]
                axes.plot(steps, values, color=viridis(scale, len(schedule)), label=f"{height}x{width}")
            axes.set_xlabel("step")
            axes.set_title(title, fontsize="medium")
        panels[1].set_yscale("log")
        panels[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
