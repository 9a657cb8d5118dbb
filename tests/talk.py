"""Conversations with a server that runs in this process."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from PIL import Image

from nextscale.pipeline import VARPipeline
from nextscale.server.app import create_app
from nextscale.server.local import LocalBackend
from nextscale.server.settings import Keys, ServerSettings

Client = httpx.AsyncClient


def talk(pipeline: VARPipeline, conversation: Callable[[Client], Awaitable[Any]], **settings: Any) -> Any:
    """Run a conversation with a server of the pipeline."""
    return talk_to(LocalBackend(pipeline, "toy", batch_size=4), conversation, **settings)


def talk_to(backend: Any, conversation: Callable[[Client], Awaitable[Any]], keys: Keys | None = None, **settings: Any):
    """Run a conversation with a server of the backend."""

    async def run() -> Any:
        app = create_app(backend, ServerSettings(model="toy", **settings), keys)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await conversation(client)

    return asyncio.run(run())


class Uvicorn(uvicorn.Server):
    """A server that says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of an app that uvicorn serves in a thread of this process."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = Uvicorn(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        assert server.has_started.wait(60)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def picture(data: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
