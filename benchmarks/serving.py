"""The server under load: throughput, lost and wrong images, memory, a full queue, clients that leave, a dead replica.

    python benchmarks/serving.py

Starts `nextscale serve` on this machine (float32, so that every image is checked against its seed), asks one request
after another, then with many clients at once, of whom some leave half-way; watches the memory of its processes, kills a
replica, fills a small queue, and stops it under load.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import httpx
from PIL import Image
from rich.console import Console
from rich.table import Table

from nextscale import VARPipeline
from nextscale.files import write_json
from nextscale.progress import Progress

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
    with Server(model) as server:
        asyncio.run(ask_many(server.url, truth, clients, 5 * clients, 0, title="warm-up"))
        alone = asyncio.run(ask_many(server.url, truth, 1, one_by_one, 0, title="one by one"))
        server.watch()
        load = asyncio.run(ask_many(server.url, truth, clients, requests, 0, title="load"))
        results["memory_mb"] = server.memory()
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
    failed = any(one["wrong"] or set(one["statuses"]) - {"200", "left"} for one in whole)
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


class Server:
    """`nextscale serve` in a process of its own."""

    def __init__(self, model: str, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "nextscale", "serve", "--model", model, "--port", str(port), *options]
        self.before: dict[int, float] = {}

    def __enter__(self) -> Server:
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        for _ in range(600):
            assert self.process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError("the server does not answer")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)

    def watch(self) -> None:
        """Remember the memory of all processes."""
        self.before = resident(self.process.pid)

    def memory(self) -> dict[str, float]:
        """Megabytes of all processes together, when watched and now."""
        return {"before": sum(self.before.values()), "after": sum(resident(self.process.pid).values())}

    def kill_replica(self) -> None:
        for pid in resident(self.process.pid):
            if b"ServeReplica:nextscale:ImageModel" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def resident(root: int) -> dict[int, float]:
    """Megabytes of a process and all that stem from it, without what they share with files."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "stat").exists():
            parents.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(
                int(entry.name)
            )
    found, stack = {}, [root]
    while stack:
        pid = stack.pop()
        stack += parents.get(pid, [])
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[pid] = next((int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon")), 0.0)
    return found


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
    server.kill_replica()
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
    console = Console()
    console.print(table)
    memory, stopped = results["memory_mb"], results["stopped"]
    console.print(
        f"load over one by one: {results['ratio']:.2f}; in work after clients left: {results['pending_after']}"
    )
    console.print(f"memory over the load: {memory['before']:.0f} MB, then {memory['after']:.0f} MB")
    console.print(f"stopped in {stopped['seconds_to_stop']:.1f} s with exit status {stopped['exit_status']}")


if __name__ == "__main__":
    cyclopts.run(main)
