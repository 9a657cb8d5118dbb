"""A pipeline of this process as a backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from nextscale.pipeline import VARPipeline
from nextscale.server.batcher import Batcher
from nextscale.server.jobs import Job, ModelCard, Stage
from nextscale.server.problems import on_purpose
from nextscale.server.worker import card_of, run_jobs


class LocalBackend:
    """A pipeline and the queue in front of it."""

    def __init__(self, pipeline: VARPipeline, name: str, *, batch_size: int = 0) -> None:
        """`batch_size` images are worked on at once; 0 takes the pipeline's default."""
        self.known = card_of(pipeline, name)
        self.batcher = Batcher(partial(run_jobs, pipeline), most=batch_size or pipeline.default_batch_size)

    async def card(self) -> ModelCard:
        return self.known

    async def make(self, job: Job) -> AsyncIterator[Stage]:
        """The stages of a job. A ValueError is about the job; one out of a library is a fault and becomes another."""
        try:
            async for stage in self.batcher.stream(job):
                yield stage
        except ValueError as error:
            if on_purpose(error):
                raise
            raise RuntimeError(f"a job failed: {error}") from error
