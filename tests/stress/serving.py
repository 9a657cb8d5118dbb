"""The server under load: throughput, lost and wrong images, memory, a full queue, clients that leave, a dead replica.

    python tests/stress/serving.py

Starts `nextscale serve` on this machine (float32, so that every image is checked against its seed), asks one request
after another, then with many clients at once, of whom some leave half-way; watches the memory of its processes, kills a
replica, fills a small queue, and stops it under load.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import httpx
from PIL import Image
from rich.table import Table

from nextscale import VARPipeline
from nextscale.cli.tables import print_table
from nextscale.files import write_json
from nextscale.progress import Progress
from nextscale.results import GenerationStep
from nextscale.server.jobs import Job
from nextscale.server.local import LocalBackend
from running_server import Server

KEPT_OPEN = httpx.Limits(max_connections=None, max_keepalive_connections=200)


def main(
    *,
    model: str = "demo",
    clients: Annotated[int, cyclopts.Parameter(help="Clients at once.")] = 32,
    requests: Annotated[int, cyclopts.Parameter(help="Requests of the load.")] = 2000,
    one_by_one: Annotated[int, cyclopts.Parameter(help="Requests one after the other.")] = 100,
    leaving: Annotated[float, cyclopts.Parameter(help="Share of clients that leave half-way.")] = 0.05,
    distinct: Annotated[int, cyclopts.Parameter(help="Different images asked for.")] = 500,
    json: str = "",
) -> None:
    """Load a server and report; exit status 1 when an image was lost or wrong, or anything hung."""
    truth = digests(model, distinct)
    results: dict[str, Any] = {"model": model, "clients": clients, "requests": requests}
    results["other_tokens"] = asyncio.run(other_tokens(model, distinct))
    with Server(model) as server:
        asyncio.run(ask_many(server.url, truth, clients, 20 * clients, 0, title="warm-up"))
        alone = asyncio.run(ask_many(server.url, truth, 1, one_by_one, 0, title="one by one"))
        load, results["memory_mb"] = asyncio.run(watched_load(server, truth, clients, requests))
        leavers = asyncio.run(ask_many(server.url, truth, clients, requests // 2, leaving, title="some leave"))
        results["pending_after"] = settled(server.url)
        killed = asyncio.run(with_a_dead_replica(server, truth, clients, requests // 10))
        stopped = asyncio.run(until_stopped(server, truth, clients))
    with Server(model, "--queue", "8") as small:
        full = asyncio.run(ask_many(small.url, truth, clients, 4 * clients, 0, title="full queue"))
    results |= {
        "one_by_one": alone, "load": load, "some_leave": leavers, "killed": killed, "stopped": stopped, "full": full,
        "ratio": load["images_per_second"] / alone["images_per_second"],
    }  # fmt: skip
    report(results)
    if json:
        write_json(Path(json), results)
    whole = (alone, load, leavers, killed)
    failed = any(one["wrong"] or set(one["statuses"]) - {"200", "left"} for one in whole) or results["other_tokens"]
    if (
        failed
        or full["wrong"]
        or set(full["statuses"]) - {"200", "429"}
        or set(stopped["statuses"]) - {"200", "503", "refused"}
    ):
        raise SystemExit(1)


def digests(model: str, distinct: int) -> list[str]:
    """Image `i` has class i mod n and seed i: the digest of its pixels."""
    pipeline = VARPipeline.from_pretrained(model, dtype="fp32")
    names = range(pipeline.transformer.config.classes)
    labels = [names[i % len(names)] for i in range(distinct)]
    return [
        hashlib.sha256(image.tobytes()).hexdigest() for image in pipeline.generate(labels, seeds=range(distinct)).images
    ]


async def watched_load(
    server: Server, truth: Sequence[str], clients: int, requests: int
) -> tuple[dict[str, Any], list[float]]:
    """The load, and the megabytes of all processes before it and every ten seconds of it."""
    memory = [server.memory()]
    asked = asyncio.create_task(ask_many(server.url, truth, clients, requests, 0, title="load"))
    while not (await asyncio.wait([asked], timeout=10))[0]:
        memory.append(server.memory())
    return asked.result(), [*memory, server.memory()]


async def other_tokens(model: str, requests: int) -> int:
    """Requests whose tokens, worked on with others, are not those that the same request alone gets."""
    pipeline = VARPipeline.from_pretrained(model, dtype="fp32")
    drawn: dict[int, list[bytes]] = {}
    steps_of = pipeline.generate_steps

    def recorded(classes: Any, *, seeds: Sequence[int], **settings: Any) -> Iterator[GenerationStep]:
        for step in steps_of(classes, seeds=seeds, **settings):
            for seed, tokens in zip(seeds, step.tokens, strict=True):
                drawn.setdefault(seed, []).append(tokens.numpy().tobytes())
            yield step

    pipeline.generate_steps = recorded
    classes, found = pipeline.transformer.config.classes, []
    for together in (True, False):
        backend = LocalBackend(pipeline, model)
        bar = Progress(requests, title="tokens, together" if together else "tokens, alone", line_seconds=20)

        async def ask(seed: int, backend: LocalBackend = backend) -> int:
            job = Job(seed=seed, label=seed % classes, sampling=pipeline.sampling())
            return [stage.together async for stage in backend.make(job)][-1]

        if together:
            sizes = await asyncio.gather(*(ask(seed) for seed in range(requests)))
            assert min(requests, 2) <= max(sizes), "nothing was worked on together"
        else:
            for seed in range(requests):
                await ask(seed)
                bar.advance(seed + 1)
        bar.close()
        found.append(dict(drawn))
        drawn.clear()
    return sum(found[0][seed] != found[1][seed] for seed in range(requests))


async def ask_many(
    url: str, truth: Sequence[str], clients: int, requests: int, leaving: float, *, title: str
) -> dict[str, Any]:
    """Requests of that many clients, each asking again as soon as it has its answer."""
    statuses: Counter[str] = Counter()
    wrong, numbers, seconds = 0, iter(range(requests)), []
    rng = random.Random(requests)
    bar = Progress(requests, title=title, line_seconds=20)

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal wrong
        for number in numbers:
            leaves = rng.random() < leaving
            status, right, took = await ask(session, url, number % len(truth), truth, leaves)
            statuses[status] += 1
            wrong += not right
            seconds.append(took)
            bar.advance(len(seconds))

    began = time.monotonic()
    async with httpx.AsyncClient(timeout=120, limits=KEPT_OPEN) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    bar.close()
    took = time.monotonic() - began
    ordered = sorted(seconds)
    return {
        "statuses": dict(statuses), "wrong": wrong, "images_per_second": statuses["200"] / took,
        "median_seconds": ordered[len(ordered) // 2], "p99_seconds": ordered[int(len(ordered) * 0.99)],
    }  # fmt: skip


async def ask(
    session: httpx.AsyncClient, url: str, number: int, truth: Sequence[str], leaves: bool = False
) -> tuple[str, bool, float]:
    """Status, whether the image is that of its seed, seconds."""
    body = {"prompt": str(number % 16), "seed": number}
    began = time.monotonic()
    call = session.post(f"{url}/v1/images/generations", json=body)
    try:
        if leaves:
            await asyncio.wait_for(call, random.Random(number).uniform(0.01, 0.3))
            return "left", True, time.monotonic() - began
        answer = await call
    except TimeoutError:
        return "left", True, time.monotonic() - began
    except httpx.TransportError:
        return "refused", True, time.monotonic() - began
    right = True
    if answer.status_code == 200:
        pixels = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).tobytes()
        right = hashlib.sha256(pixels).hexdigest() == truth[number]
    elif answer.status_code == 429:
        await asyncio.sleep(0.05)
    return str(answer.status_code), right, time.monotonic() - began


def settled(url: str) -> int:
    """Images still in work a little after the last client has left."""
    time.sleep(2)
    return httpx.get(f"{url}/healthz").json()["pending"]


async def with_a_dead_replica(server: Server, truth: Sequence[str], clients: int, requests: int) -> dict[str, Any]:
    """A load in the middle of which the replica is killed."""
    asked = asyncio.create_task(ask_many(server.url, truth, clients, requests, 0, title="a replica dies"))
    await asyncio.sleep(1)
    server.kill_replicas()
    return await asked


async def until_stopped(server: Server, truth: Sequence[str], clients: int) -> dict[str, Any]:
    """A load during which the server is told to stop."""
    asked = asyncio.create_task(ask_many(server.url, truth, clients, 6 * clients, 0, title="stopping"))
    await asyncio.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    outcome = await asked
    while server.process.poll() is None and time.monotonic() - began < 90:
        await asyncio.sleep(0.1)
    return outcome | {"exit_status": server.process.poll(), "seconds_to_stop": time.monotonic() - began}


def report(results: dict[str, Any]) -> None:
    table = Table("what", "answers", "wrong", "images/s", "median s", "99 % s")
    for name in ("one_by_one", "load", "some_leave", "killed", "stopped", "full"):
        one = results[name]
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(one["statuses"].items()))
        table.add_row(
            name.replace("_", " "), answers, str(one["wrong"]), f"{one['images_per_second']:.1f}",
            f"{one['median_seconds']:.2f}", f"{one['p99_seconds']:.2f}",
        )  # fmt: skip
    print_table(table)
    memory, stopped = results["memory_mb"], results["stopped"]
    print(f"requests whose tokens depend on the batch: {results['other_tokens']}")
    print(f"load over one by one: {results['ratio']:.2f}; in work after clients left: {results['pending_after']}")
    print(f"MB of all processes over the load: {', '.join(f'{one:.0f}' for one in memory)}")
    print(f"stopped in {stopped['seconds_to_stop']:.1f} s with exit status {stopped['exit_status']}")


if __name__ == "__main__":
    cyclopts.run(main)
