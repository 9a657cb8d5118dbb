"""The Images API as a FastAPI application, in front of any backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from nextscale import __version__
from nextscale.server.admission import Admission
from nextscale.server.forms import FormRoute
from nextscale.server.handbook import handbook
from nextscale.server.jobs import Backend, Job, ModelCard, Stage
from nextscale.server.metrics import Metrics
from nextscale.server.middleware import IMAGES, Bounds, Guard, Heads, Watch
from nextscale.server.orders import edit_jobs, generation_jobs, model_data, named_class, no_such_model
from nextscale.server.problems import Refused, answer_problems, refusal
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
from nextscale.server.streaming import EventStream, event
from nextscale.server.uploads import encoded

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer} for status in (400, 401, 404, 405, 413, 429, 500, 503, 504)
}
bearer = HTTPBearer(auto_error=False, description="One of the server's API keys, where it asks for one.")


def create_app(
    backend: Backend, settings: ServerSettings, keys: Keys | None = None, admission: Admission | None = None
) -> FastAPI:
    """The application; `admission` is shared with whoever drains it."""
    app = FastAPI(
        title="nextscale", version=__version__, summary="Images, scale by scale, in OpenAI's Images API.",
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.openapi_version = "3.1.0"
    metrics, admission = Metrics(), admission or Admission(settings.queue)
    surround(app, settings, metrics)
    answer_problems(app)
    forms = APIRouter(route_class=FormRoute)

    def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if keys is not None and (given is None or not keys.accept(given.credentials)):
            raise Refused(
                401, "a valid API key is needed: Authorization: Bearer KEY", headers={"www-authenticate": "Bearer"}
            )

    protected = [Depends(authorised)]
    late = Refused(504, f"not done within {settings.deadline:g} s; ask for less, or later")

    @app.get("/healthz", include_in_schema=False)
    async def health() -> dict[str, Any]:
        card = await backend.card()
        return {"status": "draining" if admission.draining else "ok", "model": card.name, "pending": admission.pending}

    @app.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        metrics.pending.set(admission.pending)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(handbook(app.openapi()))

    @app.get("/v1/models", dependencies=protected, responses=PROBLEMS)
    async def models() -> ModelList:
        """Models that are served."""
        return ModelList(data=[model_data(await backend.card())])

    @app.get("/v1/models/{model:path}", dependencies=protected, responses=PROBLEMS)
    async def model(model: str) -> ModelData:
        """What is known of a model."""
        card = await backend.card()
        if model != card.name:
            raise no_such_model(model, card)
        return model_data(card)

    @app.post("/v1/images/generations", dependencies=protected, responses=PROBLEMS, response_model=ImagesAnswer)
    async def generations(request: Request, wanted: GenerationRequest) -> Response | ImagesAnswer:
        """New images of a class."""
        card = await backend.card()
        return await make(request, "image_generation", wanted, generation_jobs(wanted, card, settings), card)

    @forms.post("/v1/images/edits", dependencies=protected, responses=PROBLEMS, response_model=ImagesAnswer)
    async def edits(
        request: Request, wanted: Annotated[EditRequest, Form(media_type="multipart/form-data")]
    ) -> Response | ImagesAnswer:
        """An image of which the mask's part is made anew."""
        card = await backend.card()
        return await make(request, "image_edit", wanted, await edit_jobs(wanted, card, settings), card)

    async def make(
        request: Request, kind: str, wanted: ImageRequest, jobs: Sequence[Job], card: ModelCard
    ) -> Response | ImagesAnswer:
        admission.enter(len(jobs))
        if wanted.stream:
            events = stream(request, kind, wanted, jobs[0], card)
            return EventStream(events, on_close=lambda: admission.leave(len(jobs)))
        try:
            async with asyncio.timeout(settings.deadline), asyncio.TaskGroup() as group:
                tasks = [group.create_task(result(kind, job)) for job in jobs]
        except TimeoutError:
            raise late from None
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            admission.leave(len(jobs))
        stages = [task.result() for task in tasks]
        request.scope[IMAGES] = len(stages)
        data = [
            ImageData(b64_json=await written(stage, wanted), seed=job.seed, label=named_class(stage.label, card))
            for job, stage in zip(jobs, stages, strict=True)
        ]
        height, width = stages[0].image.shape[:2]
        return ImagesAnswer(
            created=int(time.time()), data=data, size=f"{width}x{height}", output_format=wanted.output_format
        )

    async def result(kind: str, job: Job) -> Stage:
        """The finished image of a job."""
        async for stage in backend.make(job):
            if stage.final:
                metrics.images.labels(kind).inc()
                metrics.together.observe(stage.together)
                return stage
        raise RuntimeError("a backend ended without a result")

    async def stream(
        request: Request, kind: str, wanted: ImageRequest, job: Job, card: ModelCard
    ) -> AsyncIterator[bytes]:
        """Server-sent events: the image after each scale that was asked for, then the result."""
        previews = 0
        try:
            async with asyncio.timeout(settings.deadline):
                async for stage in backend.make(job):
                    facts = {
                        "b64_json": await written(stage, wanted), "created_at": int(time.time()),
                        "size": f"{stage.image.shape[1]}x{stage.image.shape[0]}", "quality": "auto",
                        "background": "opaque", "output_format": wanted.output_format, "scale": stage.scale,
                    }  # fmt: skip
                    if not stage.final:
                        yield event(f"{kind}.partial_image", facts | {"partial_image_index": previews})
                        previews += 1
                        continue
                    metrics.images.labels(kind).inc()
                    metrics.together.observe(stage.together)
                    request.scope[IMAGES] = 1
                    label = named_class(stage.label, card)
                    yield event(f"{kind}.completed", facts | {"seed": job.seed, "label": label})
        except TimeoutError:
            yield event("error", late.body())
        except Exception as error:
            yield event("error", refusal(error).body())

    app.include_router(forms)
    return app


def surround(app: FastAPI, settings: ServerSettings, metrics: Metrics) -> None:
    """What every request passes, from the inside out."""
    app.add_middleware(Bounds, most=settings.max_body)
    app.add_middleware(Guard)
    app.add_middleware(Heads)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"], expose_headers=["retry-after", "x-request-id"],
        )  # fmt: skip
    app.add_middleware(Watch, metrics=metrics, access_log=settings.access_log)


async def written(stage: Stage, wanted: ImageRequest) -> str:
    """The image in base64, without holding up other requests."""
    return await asyncio.to_thread(encoded, stage.image, wanted.output_format, wanted.output_compression)
