"""What every request passes: a bound on its size, an answer to every error, counters and the access log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextscale.server.problems import Refused, one_line, refusal

IMAGES = "nextscale.images"
"""Key of a request's scope with the number of images that were made for it."""
LEFT = 499
"""Status, in counters and log, of requests whose client left before an answer."""
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
TOGETHER = (1, 2, 4, 8, 16, 32, 64)
log = logging.getLogger(__name__)


class Metrics:
    """Counters of one HTTP process, for Prometheus."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "nextscale_requests", "Requests by path and status.", ("path", "status"), registry=registry
        )
        self.images = Counter("nextscale_images", "Images made.", ("kind",), registry=registry)
        self.pending = Gauge("nextscale_images_pending", "Images waiting or in work.", registry=registry)
        self.seconds = Histogram(
            "nextscale_request_seconds", "Time of requests.", ("path",), buckets=SECONDS, registry=registry
        )
        self.together = Histogram(
            "nextscale_batch_images", "Images that were made at once.", buckets=TOGETHER, registry=registry
        )

    def text(self) -> bytes:
        """Prometheus' exposition format."""
        return generate_latest(self.registry)


class Bounds:
    """Answers 413 to bodies of more than `most` bytes, whether or not a header says how many come."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        too_large = Refused(
            413, f"the request is too large; at most {self.most:,} bytes are taken", headers={"connection": "close"}
        )

        async def bounded() -> Message:
            nonlocal size
            part = await receive()
            size += len(part.get("body", b""))
            if size > self.most:
                raise too_large  # the framework's parsers pass it on
            return part

        if scope["type"] == "http" and announced(scope["headers"]) > self.most:
            raise too_large
        await self.app(scope, bounded, send)


class Guard:
    """Answers errors that nothing inside has answered, so that no client sees what was inside."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            answer = refusal(error).answer()
            if started or scope["type"] != "http":
                raise  # too late for another answer
            await answer(scope, receive, send)


class Heads:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        inner = {**scope, "method": "GET"}  # the server's own scope goes on saying HEAD: no body is due
        try:
            await self.app(inner, receive, headers_only)
        finally:
            scope["route"] = inner.get("route")


class Watch:
    """Counts requests by the path of their route and their status, times them, and logs a line for each."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: bool) -> None:
        self.app, self.metrics, self.access_log = app, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = LEFT, time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            took = time.monotonic() - began
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(took)
            if self.access_log:
                place = one_line(f"{scope['method']} {scope['path']}")[:120]
                count = scope.get(IMAGES, 0)
                made = f", {count} image{'s' if count > 1 else ''}" if count else ""
                log.info("%s %d, %.0f ms%s", place, status, 1000 * took, made)


def announced(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Bytes by the content-length header; 0 without one."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
