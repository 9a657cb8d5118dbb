"""Answers to requests that fail: one line that says what is wrong with the request, a neutral one for our own faults.

Tracebacks, paths, process ids and addresses go into the log only.
"""

from __future__ import annotations

import dis
import logging
import re
import sys
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from nextscale.server.schema import UNSUPPORTED, EditRequest, GenerationRequest

CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    503: "unavailable",
    504: "timeout",
}
FAULT = "the server failed at this request; its log says why"
LONGEST = 400
"""Characters of a message: requests are quoted in part, never whole."""
FIELDS = {*EditRequest.model_fields, *GenerationRequest.model_fields}

log = logging.getLogger(__name__)


class Refused(HTTPException):
    """A request that is not served: its status, a line that says why, and the seconds to wait before another try."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        waiting = {} if retry_after is None else {"retry-after": str(retry_after)}
        super().__init__(status, message, {**(headers or {}), **waiting})
        self.status, self.message, self.param = status, one_line(message), param
        self.code = code or CODES.get(status, "server_error" if status >= 500 else "invalid_request")

    def body(self) -> dict[str, dict[str, str | None]]:
        """The form that OpenAI's clients read."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def answer(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status, headers=dict(self.headers or {}))


def refusal(error: Exception) -> Refused:
    """The answer to any error. Errors that are not the client's are logged."""
    if isinstance(error, Refused):
        return error
    if is_users(error):
        named, _, _ = str(error).partition(":")
        return Refused(400, str(error), param=named if named in FIELDS else None)
    if isinstance(error, StarletteHTTPException):
        return Refused(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    log.error("a request failed with %s", type(error).__name__, exc_info=error)
    return Refused(500, FAULT)


def is_users(error: BaseException) -> bool:
    """Whether an error is about the input: a plain ValueError, or of a class of ours that derives from it.

    Ray's errors of remote calls derive from the class of their cause, too, but their text is a traceback.
    """
    return isinstance(error, ValueError) and (
        type(error) is ValueError or type(error).__module__.startswith("nextscale.")
    )


def on_purpose(error: BaseException) -> bool:
    """Whether a `raise` of our code made this error, not a library or a failed computation."""
    place = error.__traceback__
    while isinstance(place, TracebackType) and place.tb_next:
        place = place.tb_next
    if place is None:
        return True
    code, package = place.tb_frame.f_code, place.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    library = package in sys.stdlib_module_names or ("-packages" in code.co_filename and package != "nextscale")
    return not library and dis.opname[code.co_code[place.tb_lasti]] == "RAISE_VARARGS"


def one_line(text: str) -> str:
    """Text without line breaks and control characters, of bounded length, that any encoding can write."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def misfit(error: RequestValidationError, known: list[str]) -> Refused:
    """The answer to a request that does not fit the schema: its first mistake, without repeating what was sent."""
    first: dict[str, Any] = error.errors()[0]
    kind, message = first["type"], first["msg"]
    if kind == "json_invalid":
        return Refused(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}", code=kind)
    where = one_line(".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")))[:64]
    if kind == "extra_forbidden":
        near = get_close_matches(where.lower(), known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}"
        return Refused(400, f"{where}: is not a known parameter; {hint}", param=where, code="unknown_parameter")
    if kind == "missing" and where:
        return Refused(400, f"{where}: is missing", param=where, code="missing_required_parameter")
    code = "invalid_type" if re.search("_(type|parsing)$", kind) else "invalid_value"
    code = kind if kind == UNSUPPORTED else code
    return Refused(400, f"{where}: {message}" if where else message, param=where or None, code=code)


def answer_problems(app: FastAPI) -> None:
    """Give the framework's own refusals our form. Other errors are answered by `middleware.Guard`."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        place = one_line(f"{request.method} {request.url.path}")[:100]
        if isinstance(error, Refused) or error.status_code not in (404, 405):
            return refusal(error).answer()
        line = {404: "is not served here", 405: "is not allowed"}[error.status_code]
        message = f"{place}: {line}; GET /docs lists what is"
        return Refused(error.status_code, message, headers=dict(error.headers or {})).answer()

    async def unfit(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        wanted = EditRequest if request.url.path.endswith("/edits") else GenerationRequest
        return misfit(error, list(wanted.model_fields)).answer()

    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(RequestValidationError, unfit)
