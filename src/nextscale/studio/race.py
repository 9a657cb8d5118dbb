"""A comparison as a part of the page: two models on one axis of time, which the page replays (race.js).

Imports no gradio.
Shapes: (h, w) grid of tokens.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nextscale.studio.charts import round_ticks
from nextscale.studio.figures import inline

GREY = (154, 154, 154)
"""Colour of tokens that are not drawn yet."""
MOST_FRAMES = 32
"""Pictures of one model, at most."""
SIDE = 256
"""Pixels of the longer side of a picture, at most."""
SPEEDS = {1.0: "real", 0.25: "1/4", 0.1: "1/10"}
"""Speeds of a replay, and what they are called."""
WATCHED = 10.0
"""Seconds that a replay lasts at most at the speed it begins with, unless it is the real one."""


@dataclass(frozen=True)
class Lane:
    """What one model did, by its own clock."""

    title: str
    moments: Sequence[tuple[float, int]] = ()
    "Seconds after each step that is shown, and passes of the transformer so far."
    frames: Sequence[tuple[int, Image.Image]] = ()
    "Pictures with the numbers of their moments, in order; the last is that of the last moment."

    @property
    def seconds(self) -> float:
        return self.moments[-1][0] if self.moments else 0.0

    @property
    def steps(self) -> int:
        return self.moments[-1][1] if self.moments else 0


def with_gaps(image: Image.Image, drawn: np.ndarray) -> Image.Image:
    """An image that is grey where a token is not drawn; `drawn` is (h, w) bool."""
    if drawn.all():
        return image
    cover = Image.fromarray(np.where(drawn, 0, 255).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", image.size, GREY), image, cover)


def kept_moments(count: int, most: int = MOST_FRAMES) -> list[int]:
    """Numbers of the moments that are pictured: all, or `most` of them evenly, the last among them."""
    kept = min(count, most)
    return [(number + 1) * count // kept - 1 for number in range(kept)]


def first_speed(seconds: float) -> float:
    """The slowest speed at which a replay of so many seconds is not long."""
    return min((speed for speed in SPEEDS if seconds / speed <= WATCHED), default=1.0)


def decimals(lanes: Sequence[Lane]) -> int:
    """Digits after the point that give the fastest model two that count."""
    fastest = min((lane.seconds for lane in lanes if lane.seconds > 0), default=1.0)
    return max(0, 1 - math.floor(math.log10(fastest)))


def caption_of(lanes: Sequence[Lane]) -> str:
    """Steps and seconds of the models in a sentence, as HTML."""
    digits = decimals(lanes)
    steps = " against ".join(f"{lane.steps} step{'s' * (lane.steps != 1)}" for lane in lanes)
    return f"{steps}: {' and '.join(f'{lane.seconds:.{digits}f}&nbsp;s' for lane in lanes)}"


def race_html(lanes: Sequence[Lane], *, running: bool = False) -> str:
    """Pictures, clocks and the shared axis of time; with what replays them, unless the models are still at work."""
    end, digits = max(max(lane.seconds for lane in lanes), 1e-9), decimals(lanes)
    caption = caption_of(lanes) + " so far" * running
    shown = "".join(lane_html(lane, digits, running) for lane in lanes)
    tracks = "".join(track_html(lane, end) for lane in lanes)
    marks = "".join(
        f'<span style="left:{100 * mark / end:.2f}%">{mark:g}{" s" * (number == 0)}</span>'
        for number, mark in enumerate(round_ticks(0, end, 5))
    )
    facts = f'data-end="{end:.6f}" data-decimals="{digits}"' + (" data-running" if running else "")
    scrub, player = ("", "") if running else (SCRUB, player_html(end))
    return (
        f'<div class="race" {facts}><p class="outcome">{caption}</p><div class="sides"><div class="lanes">{shown}</div>'
        f'<div class="timeline"><div class="times">{tracks}<div class="axis">{marks}</div>{scrub}</div>'
        f"{player}</div></div></div>"
    )


SCRUB = '<input type="range" class="scrub" min="0" max="1000" value="1000" aria-label="Time of the comparison">'


def lane_html(lane: Lane, digits: int, running: bool) -> str:
    """A model's pictures, of which the last is seen, and its clock."""
    empty = f'<div class="to-come" data-at="0"{" hidden" * bool(lane.frames)}></div>'
    pictures = ""
    for place, (number, image) in enumerate(lane.frames, start=1):
        seconds, steps = lane.moments[number]
        says = f"{lane.title}, after {steps} of {lane.steps} steps"
        hidden = " hidden" * (place < len(lane.frames))
        pictures += f'<div data-at="{seconds:.6f}"{hidden}>{inline(image, says, most=SIDE)}</div>'
    total = "" if running else f" of {lane.steps}"
    clock = f"{lane.steps}{total} steps, {lane.seconds:.{digits}f}&nbsp;s"
    return (
        f'<figure class="lane" data-steps="{lane.steps}"><figcaption>{html.escape(lane.title)}</figcaption>'
        f'<div class="seen">{empty}{pictures}</div><p class="clock">{clock}</p></figure>'
    )


def track_html(lane: Lane, end: float) -> str:
    """A model's steps on the axis of time."""
    ticks = "".join(
        f'<i data-at="{seconds:.6f}" data-steps="{steps}" style="left:{100 * seconds / end:.2f}%"></i>'
        for seconds, steps in lane.moments
    )
    width, each = 100 * lane.seconds / end, lane.moments[0][1] if lane.moments else 1
    title = html.escape(lane.title) + (f"; a mark every {each} steps" if each > 1 else "")
    return f'<p class="whose">{title}</p><div class="track"><b style="width:{width:.2f}%"></b>{ticks}</div>'


def player_html(end: float) -> str:
    """The button and the speeds of a replay."""
    first = first_speed(end)
    speeds = "".join(
        f'<label><input type="radio" name="race-speed" value="{speed:g}"{" checked" * (speed == first)}> {name}</label>'
        for speed, name in SPEEDS.items()
    )
    return (
        '<div class="player"><button type="button" class="replay">Replay</button>'
        f'<fieldset class="speeds"><legend>Speed</legend>{speeds}</fieldset>'
        '<span class="legend-grey">Grey: tokens that are not drawn yet</span></div>'
    )
