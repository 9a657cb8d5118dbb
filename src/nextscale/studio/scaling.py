"""The Scaling tab: plots of result files."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from nextscale.bench.config import REPORT
from nextscale.bench.model_comparison import plot_comparison
from nextscale.config import read_json
from nextscale.scaling.fits import fit_family, plot_laws, read_results
from nextscale.studio.components import SHOWN
from nextscale.studio.desk import Desk
from nextscale.studio.events import errors_as_messages


def result_sets(places: tuple[Path, ...]) -> dict[str, tuple[str, Any]]:
    """What can be plotted: by name, its kind (a kind of model's scaling, or `comparison`) and its data."""
    found: dict[str, tuple[str, Any]] = {}

    def add(title: str, results: list[dict[str, Any]]) -> None:
        for kind in dict.fromkeys(one["kind"] for one in results):
            found[f"{title}: scaling of {kind}"] = "scaling", [one for one in results if one["kind"] == kind]

    for place in places:
        for folder in [place, *sorted(path for path in place.rglob("*") if path.is_dir())]:
            with suppress(ValueError):
                add(folder.name, read_results([folder]))
            for path in [folder] if folder.is_file() else sorted(folder.glob("*.json")):
                with suppress(ValueError):
                    values = read_json(path)
                    if set(values) >= REPORT:
                        found[f"{path.parent.name}/{path.stem}: comparison"] = "comparison", values
                    elif "results" in values:
                        add(f"{path.parent.name}/{path.stem}", read_results([path]))
    return found


def plotted(desk: Desk, kind: str, data: Any) -> str:
    """Draw results; returns the path of a new picture. Raises ValueError for too few results."""
    path = desk.folder / f"results-{secrets.token_hex(8)}.png"
    if kind == "scaling":
        plot_laws(data, fit_family(data), path)
    else:
        plot_comparison(data, path)
    return str(path)


def scaling_tab(desk: Desk, tab: gr.Tab) -> None:
    """A choice of results, and their plot, drawn when the tab is opened."""
    sets = result_sets(desk.results)
    if not sets:
        gr.Markdown(
            "Plots of `nextscale scaling run` and `nextscale compare`. Name the folders of their results: "
            "`nextscale studio --results out/scaling,out/compare`."
        )
        return
    chosen = gr.Dropdown(list(sets), value=next(iter(sets)), label="Results")
    buttons: Any = ["download", "fullscreen"]
    picture = gr.Image(label="Plot", elem_id="scaling-plot", elem_classes="chart", buttons=buttons, **SHOWN)

    @errors_as_messages
    def show(name: str) -> str:
        return plotted(desk, *sets[name])

    gr.on([tab.select, chosen.change], show, chosen, picture)
