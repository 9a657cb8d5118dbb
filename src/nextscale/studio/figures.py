"""Pictures with captions as HTML: they follow the width and the theme of the page, and say what they show.

Imports no gradio.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from nextscale.studio.pictures import EXACT, fitted

Stages = list[tuple[str, Image.Image | None]]
"""Steps of one image, each with its label; None for one that is still to come."""
SIDE = 192
"""Pixels of the longer side of such a picture, at most."""


def inline(image: Image.Image, says: str, *, most: int = SIDE, attributes: str = "") -> str:
    """An image as part of the page."""
    small, stream = fitted(image, most), io.BytesIO()
    kind = "png" if small.width * small.height * 4 <= EXACT else "jpeg"
    small.save(stream, kind, quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img {attributes} alt="{html.escape(says)}" src="data:image/{kind};base64,{data}">'


def strip_of(caption: str, stages: Stages) -> str:
    """The steps of one image in a row, labelled; those to come keep their place."""
    cells = []
    for label, image in stages:
        seen = inline(image, f"{caption}: {label}") if image else '<div class="to-come"></div>'
        cells.append(f"<figure>{seen}<figcaption>{html.escape(label)}</figcaption></figure>")
    return f'<p class="whose">{html.escape(caption)}</p><div class="scales">{"".join(cells)}</div>'


def table_of(
    corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Sequence[tuple[str, Image.Image]]]]]
) -> str:
    """Rows of cells below their headings; a cell holds images with what each one says, and may still be empty."""
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = ""
    for name, cells in rows:
        shown = "".join(f"<td>{''.join(inline(image, says) for says, image in cell)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{html.escape(name)}</th>{shown}</tr>'
    return f'<div class="table"><table><tr><th scope="col">{html.escape(corner)}</th>{top}</tr>{body}</table></div>'


def bar_of(low: str, high: str, colours: Sequence[tuple[int, int, int]]) -> str:
    """What the colours of a map mean, from low to high."""
    stops = ", ".join(f"rgb{colour}" for colour in colours)
    ends = f"<span>{html.escape(low)}</span>", f"<span>{html.escape(high)}</span>"
    return f'<div class="bar">{ends[0]}<i style="background: linear-gradient(to right, {stops})"></i>{ends[1]}</div>'
