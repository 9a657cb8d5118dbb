"""Multipart forms as OpenAI's clients send them."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile

from nextscale.server.problems import Refused, one_line

FILES = ("image", "mask")
LIST = re.compile(r"\[\d*\]$")
NOTHING = ("", "null")
"""Texts that stand for a value that is left out."""


class FormRoute(APIRoute):
    """A route whose form is read by `tidy`."""

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
    """A field of each name: lists of one (`image[]`, `image[0]`) as their element, without those left empty.

    Raises Refused for a name given twice, and for text in place of a file.
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
