"""The Images API as a FastAPI application, in front of any backend."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Form, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import Image
from starlette.types import Receive, Scope, Send

from nextscale import __version__
from nextscale.server.forms import FormRoute
from nextscale.server.handbook import handbook
from nextscale.server.jobs import Backend, Job, ModelCard, Stage, edit_jobs, generation_jobs, model_data
from nextscale.server.middleware import IMAGES, Bounds, Guard, Heads, Metrics, Watch
from nextscale.server.problems import Refused, answer_problems, refusal
from nextscale.server.queues import Admission
from nextscale.server.schema import (
    EditRequest,
    GenerationRequest,
    ImageData,
    ImageRequest,
    ImagesAnswer,
    ModelData,
    ModelList,
    ProblemAnswer,
)
from nextscale.server.settings import Keys, ServerSettings

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer} for status in (400, 401, 404, 405, 413, 429, 500, 503, 504)
}
bearer = HTTPBearer(auto_error=False, description="One of the server's API keys, where it asks for one.")


def create_app(
    backend: Backend, settings: ServerSettings, keys: Keys | None = None, admission: Admission | None = None
) -> FastAPI:
    """The application; `admission` is shared with the code that drains it."""
    summary = "Images, scale by scale, in OpenAI's Images API."
    app = FastAPI(title="nextscale", version=__version__, summary=summary, docs_url=None, redoc_url=None)
    app.openapi_version = "3.1.0"
    images = Images(backend, settings, admission or Admission(settings.queue), Metrics())
    add_middleware(app, settings, images.metrics)
    answer_problems(app)
    app.include_router(status_routes(images), include_in_schema=False)
    app.include_router(api_routes(images), dependencies=[Depends(key_check(keys))], responses=PROBLEMS)
    return app


def add_middleware(app: FastAPI, settings: ServerSettings, metrics: Metrics) -> None:
    """Everything that requests pass, from the inside out."""
    app.add_middleware(Bounds, most=settings.max_body)
    app.add_middleware(Guard)
    app.add_middleware(Heads)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["retry-after", "x-request-id"],
        )
    app.add_middleware(Watch, metrics=metrics, access_log=settings.access_log)


def key_check(keys: Keys | None) -> Callable[..., Coroutine[Any, Any, None]]:
    """A dependency that refuses requests without one of the keys; None takes every request."""

    async def authorised(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if keys is not None and (sent is None or not keys.accept(sent.credentials)):
            line = "a valid API key is needed: Authorization: Bearer KEY"
            raise Refused(401, line, headers={"www-authenticate": "Bearer"})

    return authorised


def status_routes(images: Images) -> APIRouter:
    """For people, balancers and Prometheus; they need no key."""
    routes = APIRouter()

    @routes.get("/healthz")
    async def health() -> dict[str, Any]:
        card, admission = await images.backend.card(), images.admission
        return {"status": "draining" if admission.draining else "ok", "model": card.name, "pending": admission.pending}

    @routes.get("/metrics")
    async def figures() -> Response:
        images.metrics.pending.set(images.admission.pending)
        return Response(images.metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(handbook(request.app.openapi()))

    return routes


def api_routes(images: Images) -> APIRouter:
    """OpenAI's Images API."""
    routes = APIRouter(route_class=FormRoute)
    backend, settings = images.backend, images.settings

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """Models that are served."""
        return ModelList(data=[model_data(await backend.card())])

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelData:
        """What is known of a model."""
        card = await backend.card()
        if model != card.name:
            raise card.refuse(model)
        return model_data(card)

    @routes.post("/v1/images/generations", response_model=ImagesAnswer)
    async def generations(request: Request, wanted: GenerationRequest) -> Response | ImagesAnswer:
        """New images of a class."""
        card = await backend.card()
        return await images.answer(request, "image_generation", wanted, generation_jobs(wanted, card, settings), card)

    @routes.post("/v1/images/edits", response_model=ImagesAnswer)
    async def edits(
        request: Request, wanted: Annotated[EditRequest, Form(media_type="multipart/form-data")]
    ) -> Response | ImagesAnswer:
        """An image of which the mask's part is made anew."""
        card = await backend.card()
        return await images.answer(request, "image_edit", wanted, await edit_jobs(wanted, card, settings), card)

    return routes


class Images:
    """Makes the images of jobs within the server's limits, counts them, and answers with them."""

    def __init__(self, backend: Backend, settings: ServerSettings, admission: Admission, metrics: Metrics) -> None:
        self.backend, self.settings, self.admission, self.metrics = backend, settings, admission, metrics

    async def answer(
        self, request: Request, kind: str, wanted: ImageRequest, jobs: Sequence[Job], card: ModelCard
    ) -> Response | ImagesAnswer:
        """The images of a request's jobs, or with `stream` the events of its only one."""
        self.admission.enter(len(jobs))
        if wanted.stream:
            events = self.events(request, kind, wanted, jobs[0], card)
            return EventStream(events, on_close=lambda: self.admission.leave(len(jobs)))
        try:
            stages = await self.results(kind, jobs)
        finally:
            self.admission.leave(len(jobs))
        request.scope[IMAGES] = len(stages)
        data = [
            ImageData(b64_json=await written(stage, wanted), seed=job.seed, label=card.shows(stage.label))
            for job, stage in zip(jobs, stages, strict=True)
        ]
        size = size_of(stages[0])
        return ImagesAnswer(created=int(time.time()), data=data, size=size, output_format=wanted.output_format)

    async def results(self, kind: str, jobs: Sequence[Job]) -> list[Stage]:
        """The finished images of jobs. Raises what the first job that fails raises, and Refused after the deadline."""
        try:
            async with asyncio.timeout(self.settings.deadline), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.result(kind, job)) for job in jobs]
        except TimeoutError:
            raise self.late() from None
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def result(self, kind: str, job: Job) -> Stage:
        """The finished image of a job."""
        async for stage in self.backend.make(job):
            if stage.final:
                self.count(kind, stage)
                return stage
        raise RuntimeError("a backend ended without a result")

    async def events(
        self, request: Request, kind: str, wanted: ImageRequest, job: Job, card: ModelCard
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the image after each scale that was asked for, then the result."""
        previews = 0
        try:
            async with asyncio.timeout(self.settings.deadline):
                async for stage in self.backend.make(job):
                    facts = await event_facts(stage, wanted)
                    if stage.final:
                        self.count(kind, stage)
                        request.scope[IMAGES] = 1
                        made = {"seed": job.seed, "label": card.shows(stage.label)}
                        yield event(f"{kind}.completed", facts | made)
                    else:
                        yield event(f"{kind}.partial_image", facts | {"partial_image_index": previews})
                        previews += 1
        except TimeoutError:
            yield event("error", self.late().body())
        except Exception as error:
            yield event("error", refusal(error).body())

    def count(self, kind: str, stage: Stage) -> None:
        """Add a finished image to the metrics."""
        self.metrics.images.labels(kind).inc()
        self.metrics.together.observe(stage.together)

    def late(self) -> Refused:
        """The answer after the deadline."""
        return Refused(504, f"not done within {self.settings.deadline:g} s; ask for less, or later")


class EventStream(StreamingResponse):
    """A stream of events that calls `on_close` at its end, also when the client left before the first event."""

    def __init__(self, events: AsyncGenerator[bytes, None], *, on_close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self.events, self.on_close = events, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.on_close()
            await self.events.aclose()


def event(kind: str, facts: dict[str, Any]) -> bytes:
    """One event, whose data repeats its kind as OpenAI's clients expect."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | facts)}\n\n".encode()


async def event_facts(stage: Stage, wanted: ImageRequest) -> dict[str, Any]:
    """What all events of a stream hold."""
    return {
        "b64_json": await written(stage, wanted),
        "created_at": int(time.time()),
        "size": size_of(stage),
        "quality": "auto",
        "background": "opaque",
        "output_format": wanted.output_format,
        "scale": stage.scale,
    }


def size_of(stage: Stage) -> str:
    """WIDTHxHEIGHT."""
    height, width = stage.image.shape[:2]
    return f"{width}x{height}"


async def written(stage: Stage, wanted: ImageRequest) -> str:
    """The image in base64, encoded in another thread so that other requests go on."""
    return await asyncio.to_thread(encoded, stage.image, wanted.output_format, wanted.output_compression)


def encoded(pixels: np.ndarray, form: str, quality: int | None = None) -> str:
    """(H, W, 3) uint8 in base64; `quality` in percent counts for JPEG and WebP, None takes Pillow's."""
    buffer = io.BytesIO()
    options = {} if quality is None or form == "png" else {"quality": quality}
    Image.fromarray(pixels).save(buffer, format=form.upper(), **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
