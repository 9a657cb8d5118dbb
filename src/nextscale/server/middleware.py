"""What surrounds every request: its size, its time, its status in the figures."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextscale.server.metrics import Metrics


class Bounds:
    """Answers 413 to bodies beyond `most` bytes, announced or not."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        message = f"the request is too large; at most {self.most:,} bytes are taken"

        async def bounded() -> Message:
            nonlocal size
            part = await receive()
            size += len(part.get("body", b""))
            if size > self.most:
                raise HTTPException(413, message)  # which the framework's parsers pass on
            return part

        if scope["type"] == "http" and announced(scope["headers"]) > self.most:
            answer = JSONResponse(problem(message, 413), status_code=413, headers={"connection": "close"})
            await answer(scope, receive, send)
        else:
            await self.app(scope, bounded, send)


class Watch:
    """Counts requests by the path of their route and their status, and times them."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 499, time.monotonic()  # as for clients that left before an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - began)


def announced(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Bytes by the content-length header; 0 without one."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def problem(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict:
    """A body as OpenAI's clients read it."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
