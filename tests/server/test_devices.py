"""Which devices replicas get, and what is said where there are none: GPUs are pretended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from nextscale.cli import main
from nextscale.pipeline import VARPipeline
from nextscale.server import local
from nextscale.server.jobs import Job, Stage
from nextscale.server.local import LocalBackend
from nextscale.server.run import require_devices
from nextscale.server.settings import ServerSettings


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give this machine so many GPUs; nothing of Ray's is started."""

    def start(*_: Any) -> None:
        raise AssertionError("started")

    def make(gpus: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr("nextscale.runtime.cuda_multiplies_bf16", lambda device: True)
        monkeypatch.setattr("nextscale.server.run.private_ray", start)

    return make


@pytest.mark.parametrize(
    ("gpus", "flags", "message"),
    [
        (0, ["--device", "cuda"], "device 'cuda' is not available on this machine"),
        (2, ["--replicas", "3"], "each takes a GPU, and this machine has 2; use --replicas 2 or --device cpu"),
        (2, ["--device", "cuda:1"], "use cuda, and CUDA_VISIBLE_DEVICES=1 in the environment to choose"),
        (1, ["--precision", "int8"], "precision int8 runs on cpu only"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_starts(
    machine: Callable[[int], None], capsys: pytest.CaptureFixture[str], gpus: int, flags: list[str], message: str
) -> None:
    machine(gpus)
    assert main(["serve", "--port", "0", *flags]) == 2
    assert message in capsys.readouterr().err


def test_ray_gives_out_the_gpus_that_torch_sees(machine: Callable[[int], None]) -> None:
    machine(3)
    assert require_devices(ServerSettings(replicas=3)) == 3
    assert require_devices(ServerSettings(device="cpu", replicas=9)) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize(
    ("device", "cluster", "kind", "gpus"), [("cuda", 0, "cuda", 1), ("auto", 4, "cuda", 1), ("cpu", 4, "cpu", 0)]
)
def test_replicas_ask_for_a_gpu_each_though_this_node_has_none(
    machine: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    cluster: int,
    kind: str,
    gpus: int,
) -> None:
    from nextscale.server import deployment

    machine(0)
    monkeypatch.setattr(deployment, "cluster_gpus", lambda: cluster)
    found = deployment.device_kind(ServerSettings(device=device))
    assert found == kind
    assert deployment.model_resources(found, 2)["num_gpus"] == gpus
    waiting = "each of 2 replicas takes a GPU; those without one wait until the cluster has more"
    assert (waiting in caplog.messages) == (gpus * 2 > cluster)
    assert deployment.suited_replicas(ServerSettings(), "cuda") == 1
    deployment.build(ServerSettings(device=device, replicas=2))


@pytest.mark.parametrize(
    ("asked", "kind", "precision"),
    [("", "cpu", "fp32"), ("", "cuda", "auto"), ("", "mps", "auto"), ("fp32", "cuda", "fp32"), ("bf16", "cpu", "bf16")],
)
def test_precision_follows_the_device_unless_it_is_asked_for(asked: str, kind: str, precision: str) -> None:
    assert ServerSettings(precision=asked).precision_on(kind) == precision


def test_models_on_one_device_take_turns(pipeline: VARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = LocalBackend(pipeline, "one"), LocalBackend(pipeline, "other")
    assert one.turn is other.turn
    held: list[bool] = []

    def run(_: VARPipeline, jobs: Sequence[Job], wanted: Callable[[int], bool]) -> Iterator[list[Stage | None]]:
        held.append(one.turn.locked())
        yield [Stage(0, np.zeros((1, 1, 3), np.uint8), True, job.seed, len(jobs)) for job in jobs]

    monkeypatch.setattr(local, "run_jobs", run)

    async def last(backend: LocalBackend, seed: int) -> int | None:
        return [stage.label async for stage in backend.make(Job(seed=seed, label=0, sampling=pipeline.sampling()))][-1]

    async def scenario() -> list[int | None]:
        return await asyncio.gather(*(last(backend, seed) for seed, backend in enumerate([one, other])))

    assert asyncio.run(scenario()) == [0, 1]
    assert held == [True, True]
    for backend in (one, other):
        backend.batcher.thread.shutdown()
    assert not one.turn.locked()
