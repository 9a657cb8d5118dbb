"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


def event(kind: str, facts: dict[str, Any]) -> bytes:
    """One event, whose data repeats its kind as OpenAI's clients expect."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | facts)}\n\n".encode()


class EventStream(StreamingResponse):
    """A stream of events that says when it is over, also when the client left before the first."""

    def __init__(self, events: AsyncIterator[bytes], *, on_close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self.events, self.on_close = events, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.on_close()
            await self.events.aclose()  # pyright: ignore[reportAttributeAccessIssue]
