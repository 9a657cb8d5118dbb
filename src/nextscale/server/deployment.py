"""The server on Ray Serve: replicas that hold the model, and the HTTP side in front of them.

`build` is the application builder of a Serve configuration: on a cluster,

    applications:
      - name: nextscale
        import_path: nextscale.server.deployment:build
        args: {model: demo, replicas: 4}
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from nextscale.catalogue import BUNDLED, FolderModel, find_model
from nextscale.config import from_dict
from nextscale.environment import POLICIES, share_the_processor
from nextscale.runtime import resolve_device
from nextscale.server.app import create_app
from nextscale.server.jobs import Job, ModelCard, Stage
from nextscale.server.local import LocalBackend
from nextscale.server.private_ray import keep_replicas_private
from nextscale.server.problems import Refused, is_users
from nextscale.server.queues import Admission
from nextscale.server.settings import Keys, ServerSettings

log = logging.getLogger(__name__)
ATTEMPTS = 5
"""How often a job is tried at most, where replicas die while they work on it."""
STARTS = 3
"""Failed starts of replicas, all together, after which the server gives up."""
SMALL = 400_000_000
"""Bytes of weights up to which a second copy on the same machine costs little."""
UNLIMITED = 10_000
"""Requests that Ray lets through: `Admission` bounds how many wait, and answers 429."""


def cluster_gpus() -> int:
    """GPUs of all nodes that Ray has now; an autoscaler may add some."""
    return int(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else 0


def device_kind(settings: ServerSettings) -> str:
    """`cpu`, `cuda` or `mps`: what replicas compute on. This node may have no GPU while those of the replicas do.

    Raises ValueError for a device that is not known.
    """
    if settings.device == "cuda" or (settings.device == "auto" and cluster_gpus()):
        return "cuda"
    return resolve_device(settings.device).type


def suited_replicas(settings: ServerSettings, kind: str) -> int:
    """Number of replicas. On CPU two small ones with half the cores each serve more than one with all of them.

    Threads of one model wait for each other whenever HTTP work takes a core.
    """
    if kind != "cpu" or (os.cpu_count() or 1) < 2:
        return 1
    if settings.model not in BUNDLED and not Path(settings.model).is_dir():
        return 1  # its size is not known here: the authors' files would be read whole, others fetched
    stored = find_model(settings.model)
    assert isinstance(stored, FolderModel)
    weights = sum(file.stat().st_size for file in stored.folder.rglob("*.safetensors"))
    return 2 if weights <= SMALL else 1


def model_resources(kind: str, replicas: int) -> dict[str, Any]:
    """What a replica asks Ray for: on CUDA a GPU of its own, which is then the only one it sees."""
    gpus = 1 if kind == "cuda" else 0
    if replicas * gpus > cluster_gpus():
        log.warning("each of %d replicas takes a GPU; those without one wait until the cluster has more", replicas)
    return {"num_cpus": 0, "num_gpus": gpus, "runtime_env": {"env_vars": thread_policies()}}


def thread_policies() -> dict[str, str]:
    """Variables that say how threads wait, for processes of Ray's: they load torch before any code of ours."""
    share_the_processor()
    return {name: os.environ[name] for name in POLICIES if name in os.environ}


class ImageModel(LocalBackend):
    """A replica: the model in a process of its own."""

    def __init__(self, settings: ServerSettings, threads: int = 0) -> None:
        """`threads`: of torch; 0 leaves them. Raises ValueError for a device or precision that this node lacks."""
        import torch

        from nextscale.pipeline import VARPipeline
        from nextscale.runtime import retain_freed_memory

        keep_replicas_private()
        if threads:
            torch.set_num_threads(threads)
        retain_freed_memory()
        device = resolve_device(settings.device)
        pipeline = VARPipeline.from_pretrained(settings.model, device=device, dtype=settings.precision_on(device.type))
        super().__init__(pipeline, settings.served_name, batch_size=settings.batch_size)


class Replicas:
    """All replicas as one backend: a job whose replica dies goes to another one."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle
        self.known: ModelCard | None = None

    async def card(self) -> ModelCard:
        if self.known is None:
            self.known = await self.handle.card.remote()
        assert self.known is not None
        return self.known

    async def make(self, job: Job) -> AsyncIterator[Stage]:
        shown = -1
        for attempt in range(ATTEMPTS):
            stages = cast(DeploymentResponseGenerator[Stage], self.handle.options(stream=True).make.remote(job))
            try:
                async for stage in stages:
                    if stage.final or stage.scale > shown:  # another attempt makes the first stages again
                        shown = stage.scale
                        yield stage
                return
            except RayActorError as error:
                log.warning("a replica ended under its work, which goes to another")
                if attempt == ATTEMPTS - 1:
                    line = "the model's processes ended under this request, several times; try again later"
                    raise Refused(503, line, retry_after=10) from error
            except RayTaskError as error:
                if is_users(error.cause):
                    raise error.cause from None
                raise
            finally:
                with suppress(Exception):
                    stages.cancel()


class KeptLines(logging.Handler):
    """Keeps log lines until they are taken, the newest ones where they become many."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[tuple[int, str]] = deque(maxlen=10_000)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, self.format(record)))

    def take(self) -> list[tuple[int, str]]:
        """Levels and lines since the last time."""
        return [self.lines.popleft() for _ in range(len(self.lines))]


class Api:
    """The HTTP side."""

    def __init__(self, model: DeploymentHandle, settings: ServerSettings, keys: Keys | None) -> None:
        keep_replicas_private()
        self.kept = KeptLines()
        logger = logging.getLogger("nextscale")
        logger.addHandler(self.kept)
        logger.setLevel(logging.INFO)
        self.admission = Admission(settings.queue)
        self.asgi = create_app(Replicas(model), settings, keys, self.admission)

    def __serve_build_asgi_app__(self) -> Any:
        return self.asgi

    async def drain(self) -> int:
        """Take up nothing new; returns how many images are still waiting or in work."""
        self.admission.draining = True
        return self.admission.pending

    async def lines(self) -> list[tuple[int, str]]:
        """Levels and lines that were logged since the last call."""
        return self.kept.take()


def build(args: dict[str, Any] | ServerSettings) -> serve.Application:
    """The application of these settings. Raises ValueError for wrong ones."""
    settings = args if isinstance(args, ServerSettings) else from_dict(ServerSettings, args, where="args")
    keys = Keys.read(settings.api_key_file) if settings.api_key_file else None
    kind = device_kind(settings)
    replicas = settings.replicas or suited_replicas(settings, kind)
    threads = max(1, (os.cpu_count() or 1) // replicas) if kind == "cpu" else 0
    shared: dict[str, Any] = {"max_ongoing_requests": UNLIMITED, "graceful_shutdown_timeout_s": settings.deadline}
    model = serve.deployment(
        num_replicas=replicas,
        ray_actor_options=model_resources(kind, replicas),
        health_check_period_s=2,
        max_constructor_retry_count=STARTS,
        **shared,
    )(ImageModel)
    api = serve.deployment(name="Api", ray_actor_options={"num_cpus": 0}, **shared)(serve.ingress()(Api))
    return api.bind(model.bind(settings, threads), settings, keys)
