"""Multipart forms as OpenAI's clients send them, and the images in them, which are untrusted.

Shapes: (H, W) pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile

from nextscale.data.decode import decode, read_image
from nextscale.editing.masks import read_mask, transparency
from nextscale.server.problems import Refused, one_line

FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that are read. Pillow knows many more, some of which run other programs."""
FILES = ("image", "mask")
LIST = re.compile(r"\[\d*\]$")
NOTHING = ("", "null")
"""Texts that mean that a field is left out."""


class FormRoute(APIRoute):
    """A route whose form goes through `tidy`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            return await handle(FormRequest(request.scope, request.receive))

        return handle_form


class FormRequest(Request):
    async def form(self, **limits: Any) -> FormData:  # pyright: ignore[reportIncompatibleMethodOverride]
        form = await super().form(**limits)
        try:
            return tidy(form)
        except Refused:
            await form.close()
            raise


def tidy(form: FormData) -> FormData:
    """One field per name: a list of one (`image[]`, `image[0]`) is its element, empty fields are left out.

    Raises Refused for a name that comes twice, and for text in place of a file.
    """
    fields: dict[str, UploadFile | str] = {}
    for key, value in form.multi_items():
        name = LIST.sub("", key)
        if isinstance(value, str) and (value in NOTHING and name != "prompt"):
            continue
        if name in fields:
            several = "one image is taken" if name in FILES else "give it once"
            raise Refused(400, f"{one_line(name)[:64]}: is given more than once; {several}", param=one_line(name)[:64])
        if name in FILES and isinstance(value, str):
            raise Refused(400, f"{name}: expected a file, got text", param=name, code="invalid_type")
        fields[name] = value
    return FormData(fields)


def uploaded_image(data: bytes, most_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8. Raises ValueError."""
    return np.array(read_image(data, name="image", formats=FORMATS, most_pixels=most_pixels))


def uploaded_mask(data: bytes, size: tuple[int, int], most_pixels: int) -> np.ndarray:
    """(H, W) float32 of the image's size, from 0, kept, to 1, regenerated. Raises ValueError."""
    return read_mask(data, size, name="mask", formats=FORMATS, most_pixels=most_pixels).numpy()


def transparent_part(data: bytes, most_pixels: int) -> np.ndarray | None:
    """(H, W) float32, 1 where an uploaded image is transparent; None where it is opaque. Raises ValueError."""
    return transparency(decode(data, name="image", formats=FORMATS, most_pixels=most_pixels).image)
