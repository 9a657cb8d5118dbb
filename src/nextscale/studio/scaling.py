"""The Scaling tab: result files as charts, one figure at a time."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from nextscale.studio.desk import Desk
from nextscale.studio.events import QUIET
from nextscale.studio.jobs import Update
from nextscale.studio.result_charts import ResultSet, bundled_results, result_sets


def chart_or_reason(results: ResultSet, figure: str, over: str) -> str:
    """A chart; in its place, why there is none."""
    try:
        return results.chart(figure, over)
    except ValueError as error:
        return f'<p class="note">Nothing to draw: {html.escape(str(error))}.</p>'


def scaling_tab(desk: Desk) -> None:
    """A choice of results, figure and axis, and their chart."""
    sets = result_sets(desk.results) | bundled_results()
    name, one = next(iter(sets.items()))
    with gr.Row():
        results = gr.Dropdown(
            list(sets), value=name, label="Results", elem_id="scaling-results", scale=2, min_width=320
        )
        figure = gr.Dropdown(**figures(one), label="Figure", elem_id="scaling-figure", min_width=200)
        over = gr.Dropdown(one.costs, value=one.costs[0], label="Over", elem_id="scaling-over", min_width=200)
    first = chart_or_reason(one, next(iter(one.figures)), one.costs[0])
    shown = gr.HTML(first, elem_id="scaling-chart", padding=False)
    gr.Markdown(
        "Your own: `nextscale studio --results out/scaling,out/compare`, with folders of `nextscale scaling run` and "
        "`nextscale compare`. Choose a point to read it; boxes switch lines off."
    )

    def draw(name: str, figure: str, over: str) -> str:
        return chart_or_reason(sets[name], figure, over)

    def choose(name: str) -> Update:
        one = sets[name]
        return {
            figure: gr.Dropdown(**figures(one)),
            over: gr.Dropdown(one.costs, value=one.costs[0]),
            shown: chart_or_reason(one, next(iter(one.figures)), one.costs[0]),
        }

    results.input(choose, results, [figure, over, shown], **QUIET)
    gr.on([figure.input, over.input], draw, [results, figure, over], shown, **QUIET)


def figures(results: ResultSet) -> dict[str, Any]:
    """Choices of figures by their titles, and the first."""
    choices = [(title, name) for name, title in results.figures.items()]
    return {"choices": choices, "value": choices[0][1]}
