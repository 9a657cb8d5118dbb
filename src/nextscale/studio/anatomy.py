"""The Inspect tab: an image beside what its scales add up to, and everything by scale in columns."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Iterator, Sequence

import gradio as gr
from PIL import Image
from torch import Tensor

from nextscale.pipeline import VARPipeline
from nextscale.pyramid import ScaleSchedule
from nextscale.studio.components import image_input, refuse_unreadable, shown_gallery, shown_picture, uploaded
from nextscale.studio.desk import Desk
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.figures import bar_of, inline
from nextscale.studio.generate import ReadyMade
from nextscale.studio.history import chosen_of
from nextscale.studio.inspection import (
    STOPS,
    Inspection,
    additions,
    attention_of,
    codebook_usage,
    heat,
    inspect_image,
    mask_picture,
    summary,
)
from nextscale.studio.jobs import Job, Update, Visitor
from nextscale.studio.pictures import PREVIEW
from nextscale.studio.theme import asset

LIKELIEST = "(likeliest)"
UNLIKELY = -8.0
"""Nats of a token that is shown as the least expected."""
PRESS = "() => setTimeout(() => document.querySelector('#inspect-start').click(), 300)"
MAP = 'class="map"'
HOW = "Click a token to see where the model looks when it predicts it; with the keyboard, arrow keys and Enter."


def labels_of(schedule: ScaleSchedule) -> list[str]:
    return [f"{height} x {width}" for height, width in schedule]


def stage_of(seen: Inspection) -> str:
    """The original, and beside it the image after each scale, of which the page shows one, with its grid of tokens."""
    schedule, images = seen.tokens.schedule, []
    for number, ((height, width), image, near) in enumerate(
        zip(schedule, seen.stages, seen.psnr, strict=True), start=1
    ):
        says = f"After scale {number} of {len(schedule)}: {height} x {width} tokens, PSNR {near:.1f} dB"
        facts = f'data-rows="{height}" data-columns="{width}" data-says="{says}"' + (" hidden" if number > 1 else "")
        images.append(inline(image, says, most=PREVIEW, attributes=facts))
    original = inline(seen.image, "The original", most=PREVIEW)
    slider = f'<input type="range" min="1" max="{len(schedule)}" value="1" aria-label="Scales added up">'
    dials = f'<div class="dials"><button type="button" class="play">Play</button>{slider}</div>'
    over = '<div class="lines"></div><div class="marker" hidden></div>'
    tokens = f'<div class="tokens" tabindex="0" role="group" aria-label="Tokens. {HOW}">{"".join(images)}{over}</div>'
    pair = (
        f"<figure>{original}<figcaption>The original</figcaption></figure>"
        f'<figure>{tokens}<figcaption class="now" aria-live="polite"></figcaption></figure>'
    )
    name, (_, row, column) = secrets.token_hex(4), middle(schedule)
    start = f'data-name="{name}" data-row="{row}" data-column="{column}"'
    return f'<div class="stage" {start}>{dials}<div class="pair">{pair}</div><p>{HOW}</p></div>'


Row = tuple[str, str, Sequence[str]]
"""A heading, what it means, and a cell for each scale."""


def columns_of(schedule: ScaleSchedule, title: str, rows: Sequence[Row]) -> str:
    """Rows below the sizes of the scales."""
    top = "".join(f'<th scope="col">{label}</th>' for label in labels_of(schedule))
    body = ""
    for heading, meaning, cells in rows:
        shown = "".join(f"<td>{cell}</td>" for cell in cells)
        body += f'<tr><th scope="row">{heading}<small>{meaning}</small></th>{shown}</tr>'
    first = '<th scope="row">Scale<small>Size of its map of tokens.</small></th>'
    table = f'class="table anatomy" tabindex="0" role="region" aria-label="{title}"'  # it scrolls on a phone
    return f"<div {table}><table><tr>{first}{top}</tr>{body}</table></div>"


def scales_of(seen: Inspection) -> str:
    """Everything by scale: pictures, maps and figures."""
    schedule = seen.tokens.schedule
    labels = labels_of(schedule)

    def pictures(images: Sequence[Image.Image], what: str, attributes: str = "") -> list[str]:
        return [
            inline(one, f"{what}, {label}", attributes=attributes) for one, label in zip(images, labels, strict=True)
        ]

    usage = [[str(value) for value in column] for column in zip(*codebook_usage(seen), strict=True)]
    likely = heat(seen.likelihood, schedule, UNLIKELY, 0.0)
    greys = bar_of("darker", "brighter", [(0, 0, 0), (127, 127, 127), (255, 255, 255)])
    colours = bar_of(f"under {math.exp(UNLIKELY):.2%}", "100 %", STOPS)
    left = [f"{norm / max(seen.norms[0], 1e-9):.0%}" for norm in seen.norms[1:]]
    return columns_of(schedule, "Scale by scale", [
        ("Image so far", "Decoded from this scale and the coarser ones.", pictures(seen.stages, "Image so far")),
        ("PSNR, dB", "Nearness to the original; higher is nearer.", [f"{near:.1f}" for near in seen.psnr]),
        ("What it adds", f"Grey is no change.{greys}", pictures(additions(seen), "What it adds")),
        ("Residual", "Share of the encoder's features that the scales so far leave unexplained.", left),
        ("Probability", f"Of each token, given the coarser scales and the class.{colours}",
         pictures(likely, "Probability of its tokens", MAP)),
        ("Nats per token", "What a token costs on average: minus the logarithm of its probability.", usage[4]),
        ("Tokens", "Entries of the codebook that the scale is written with.", usage[1]),
        ("Codes used", "Different ones among them.", usage[2]),
        ("Perplexity", "As varied as so many codes that are used equally often.", usage[3]),
    ])  # fmt: skip


def attention_part(schedule: ScaleSchedule, shares: Tensor, scale: int, row: int, column: int) -> str:
    """Where a token looks, by scale."""
    most = float(shares.max())
    maps = heat(shares.sqrt(), schedule, 0.0, most**0.5)
    cells = [
        inline(one, f"Attention to {label}", attributes=MAP)
        for one, label in zip(maps, labels_of(schedule), strict=True)
    ]
    token = f"row {row + 1}, column {column + 1} of {labels_of(schedule)[scale]}"
    meaning = f"Mean over all blocks and heads of the token in {token}.{bar_of('0 %', f'{most:.1%}', STOPS)}"
    sums = [f"{float(shares[span].sum()):.0%}" for span in schedule.slices]
    rows = [("Attention", meaning, cells), ("Together", "Share of each scale.", sums)]
    return columns_of(schedule, "Attention", rows)


def middle(schedule: ScaleSchedule) -> tuple[int, int, int]:
    """Scale, row and column of the token that is chosen at first: in the middle of the last map."""
    height, width = schedule.final
    return len(schedule) - 1, height // 2, width // 2


def examined(pipeline: VARPipeline, path: str, label: int | None = None) -> tuple[Inspection, Tensor]:
    """What is computed of an image, and the attention of the token in its middle."""
    seen = inspect_image(pipeline, uploaded(path), label)
    return seen, attention_of(pipeline, seen, *middle(pipeline.schedule))


class Sample:
    """The inspection that a page shows before anything was asked: made once."""

    def __init__(self, desk: Desk, ready_made: ReadyMade) -> None:
        self.desk, self.ready_made = desk, ready_made
        self._lock, self._seen = threading.Lock(), None

    def seen(self) -> tuple[Inspection, Tensor] | None:
        """None where there are no ready-made images."""
        if not self.ready_made.frame():
            return None
        with self._lock:
            if self._seen is None:
                with self.desk.visitors.line.turn():
                    self._seen = examined(self.desk.pipeline, self.ready_made.files[0][0])
            return self._seen


def inspect_tab(page: PageJobs, ready_made: ReadyMade) -> None:
    """Upload and samples at the left; the image, attention and scales at the right."""
    desk, schedule, sample = page.desk, page.desk.pipeline.schedule, Sample(page.desk, ready_made)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = image_input(label="Image", height=240, elem_id="inspect-image")
            samples = shown_gallery("Or choose one", columns=4, elem_id="inspect-samples", allow_preview=False)
            hint = "The model predicts the tokens of an image of this class."
            name = gr.Dropdown([LIKELIEST, *desk.class_choices], value=LIKELIEST, label="Class", info=hint)
            start = gr.Button("Inspect", variant="primary", elem_id="inspect-start")
            status = gr.Markdown("Upload an image to look into its pyramid.", elem_id="inspect-status")
            coarser = desk.pipeline.editing_model.config.sees_coarser
            seen_by_all = "itself and the coarser ones" if coarser else "itself alone"
            mask = mask_picture(schedule, coarser=coarser)
            title = f"Attention mask: each scale sees {seen_by_all}"
            shown_picture(title, value=mask, buttons=[], elem_id="inspect-mask")
            gr.Markdown("Each row is a token; bright are those it may see. Lines part the scales.")
        with gr.Column(scale=2, min_width=300):
            stage = gr.HTML("", elem_id="inspect-stage", padding=False, js_on_load=asset("stage.js"))
            gr.Markdown("Attention: where the model looks", elem_classes="title")
            attention = gr.HTML("", elem_id="inspect-attention", padding=False)
            gr.Markdown("Scale by scale", elem_classes="title")
            scales = gr.HTML("", elem_id="inspect-scales", padding=False)
    found = gr.State(None)
    refuse_unreadable(picture)

    def shown(seen: Inspection, shares: Tensor) -> Update:
        news = {found: seen, status: summary(seen, desk.class_choices), stage: stage_of(seen)}
        return news | {attention: attention_part(schedule, shares, *middle(schedule)), scales: scales_of(seen)}

    def work(job: Job, file: str | None, name: str) -> Iterator[Update]:
        if file is None and not ready_made.files:
            raise ValueError("there is no image yet: upload one")
        yield {status: "Reading its tokens ..."}
        label = None if name == LIKELIEST else desk.pipeline.class_ids(desk.label_of(name))[0]
        yield shown(*examined(desk.pipeline, file or ready_made.files[0][0], label))

    def kept(visitor: Visitor) -> Update:
        if (made := sample.seen()) is None:
            return {samples: gr.Gallery(visible=False)}
        news: Update = {} if "Inspect" in visitor.jobs else shown(*made)
        return news | {samples: gr.Gallery(value=[*ready_made.files])}

    outputs = [found, stage, attention, scales, samples]
    page.job("Inspect", start, None, status, work, [picture, name], outputs, kept)

    def look(seen: Inspection | None, event: gr.EventData) -> str:
        if seen is None:
            raise ValueError("there is no image yet: upload one")
        facts = event._data
        scale, row, column = (int(facts[key]) for key in ("scale", "row", "column"))
        with desk.visitors.line.turn():
            shares = attention_of(desk.pipeline, seen, scale, row, column)
        return attention_part(schedule, shares, scale, row, column)

    stage.select(errors_as_messages(look), found, attention, show_progress="hidden", api_visibility="private")

    def choose(event: gr.SelectData) -> str | None:
        chosen = chosen_of(ready_made.files, event.value)
        return chosen[0] if chosen else None

    samples.select(choose, None, picture, **QUIET).success(None, None, None, js=PRESS, api_visibility="private")
