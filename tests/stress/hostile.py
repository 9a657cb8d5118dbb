"""Malformed and hostile requests against the server: refusals only, no growth, no file touched.

    python tests/stress/hostile.py

Starts `nextscale serve` with a key file in an empty folder and sends what schemathesis makes up from the OpenAPI
document, fitting and not, and what it does not think of: decompression bombs, broken and lying images, bodies that are
too large or no JSON, paths as names, missing and wrong keys.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from rich.console import Console

from nextscale.files import write_json
from nextscale.progress import Progress
from running_server import Server

KEY = "sesame"
PATHS = ("/v1/images/generations", "/v1/images/edits")
NAMES = (
    "../../etc/passwd", "/etc/passwd", "C:\\boot.ini", "..%2f..%2fetc", "file:///etc/passwd", "$(id)", "`id`",
    "\x00", "-rf",
)  # fmt: skip
RULES: dict[str, Any] = {
    "deadline": None, "database": None, "derandomize": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}  # fmt: skip
Sent = Callable[[httpx.Client], httpx.Response]


def main(
    *,
    model: str = "demo",
    requests: Annotated[int, cyclopts.Parameter(help="Requests, of which three fifths are schemathesis'.")] = 2000,
    json: str = "",
) -> None:
    """Send them and report; exit status 1 for a server error, a hostile request that was taken, or a file touched."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(f"{KEY}\n")
        with Server(model, "--api-key-file", str(keys), folder=folder) as server:
            client = httpx.Client(base_url=server.url, timeout=60, headers={"authorization": f"Bearer {KEY}"})
            list(send(client, "warm-up", handmade(random.Random(1)), requests // 10))
            before, memory = touched(folder), server.memory()
            hostile = list(send(client, "hostile", handmade(random.Random(0)), requests - made_up(requests) * 4))
            statuses = {
                f"{mode.value} {path}": from_document(server.url, path, mode, made_up(requests))
                for path in PATHS
                for mode in schemathesis.GenerationMode
            }
            results: dict[str, Any] = {
                "handmade": Counter(str(answer.status_code) for answer in hostile), "made_up": statuses,
                "memory_mb": [memory, server.memory()], "health": client.get("/healthz").json(),
                "files_touched": sorted(touched(folder) ^ before),
            }  # fmt: skip
    Console().print_json(data=results)
    if json:
        write_json(Path(json), results)
    counted = Counter(results["handmade"])
    for one in statuses.values():
        counted.update(one)
    failed = any(int(status) >= 500 for status in counted) or any(int(s) < 400 for s in results["handmade"])
    if failed or results["files_touched"] or results["health"]["pending"]:
        raise SystemExit(1)


def made_up(requests: int) -> int:
    """Requests of schemathesis for each path and mode."""
    return requests * 3 // 5 // 4


def from_document(url: str, path: str, mode: schemathesis.GenerationMode, count: int) -> Counter[str]:
    """Statuses of requests made from the OpenAPI document."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: Counter[str] = Counter()
    bar = Progress(count, title=f"{mode.value} {path}", line_seconds=20)

    @given(case=schema[path]["POST"].as_strategy(mode))
    @settings(max_examples=count, **RULES)
    def one(case: schemathesis.Case) -> None:
        answer = case.call(base_url=url, timeout=60, headers={"authorization": f"Bearer {KEY}"})
        statuses[str(answer.status_code)] += 1
        bar.advance(min(sum(statuses.values()), count))

    one()
    bar.close()
    return statuses


def send(client: httpx.Client, title: str, kinds: Iterator[Sent], count: int) -> Iterator[httpx.Response]:
    bar = Progress(count, title=title, line_seconds=20)
    for number in range(count):
        yield next(kinds)(client)
        bar.advance(number + 1)
    bar.close()


def handmade(rng: random.Random) -> Iterator[Sent]:
    """Without end: each of the kinds in turn, with other contents each time."""
    bomb = picture(Image.new("1", (30_000, 30_000)))
    while True:
        yield generation({"prompt": rng.choice(NAMES)})
        yield generation({"prompt": "0", "model": rng.choice(NAMES)})
        yield generation({"prompt": "0", "size": rng.choice(["1x1", "99999999x9", "-1x-1", "axb"])})
        yield generation({"prompt": "0", "n": rng.choice([0, -1, 11, 10**30, 1.5, "many", [1], {}])})
        yield generation({"prompt": "0", "seed": rng.choice([-1, 2**64, 1e300, "x", {}])})
        yield generation({"prompt": "0", "top_p": rng.choice([-1, 1.1, "x"]), "guidance": rng.choice([1e9, "x"])})
        yield generation({"prompt": rng.choice([{}, [], 10**9, -1, True, None, "x" * 10_000])})
        yield generation({"prompt": "0", "output_format": rng.choice(NAMES)})
        yield raw(rng.choice([b"", b"{", b"null", b"\xff\xfe", b"[" * 50_000, rng.randbytes(2000)]))
        yield raw(b'{"prompt": "0", "user": "' + b"x" * 33_000_000 + b'"}' if rng.random() < 0.1 else b'{"n": NaN}')
        yield keyless(rng.choice(["", "Bearer", "Bearer open", "Basic c2VzYW1l", f"Bearer {KEY}x", f"bearer{KEY}"]))
        yield other("GET", f"/v1/models/{rng.choice(NAMES[:4])}")
        yield other(rng.choice(["PUT", "DELETE", "PATCH"]), PATHS[0])
        good = picture(Image.new("RGB", (rng.randint(1, 64), rng.randint(1, 64))))
        yield edit(rng.randbytes(rng.randint(0, 3000)), good)
        yield edit(good[: rng.randint(1, len(good) - 30)], good)
        yield edit(good, bomb) if rng.random() < 0.2 else edit(good, rng.randbytes(100))
        yield edit(bomb, good) if rng.random() < 0.2 else edit(b"<svg/>", good)
        yield edit(good, picture(Image.new("L", (65, 65), 255)), name=rng.choice(NAMES[:4]))
        yield edit(good, None, keep_scales=rng.choice(["-1", "99", "x"]))
        yield edit(spoiled(good, rng), b"", prompt=rng.choice(NAMES))


def generation(body: dict[str, Any]) -> Sent:
    return lambda client: client.post(PATHS[0], json=body)


def raw(body: bytes) -> Sent:
    return lambda client: client.post(PATHS[0], content=body, headers={"content-type": "application/json"})


def keyless(value: str) -> Sent:
    return lambda client: client.post(PATHS[0], json={"prompt": "0"}, headers={"authorization": value})


def other(method: str, path: str) -> Sent:
    return lambda client: client.request(method, path)


def edit(image: bytes, mask: bytes | None, *, name: str = "a.png", **fields: str) -> Sent:
    files = {"image": (name, image, "image/png")} | ({} if mask is None else {"mask": (name, mask, "image/png")})
    return lambda client: client.post(PATHS[1], files=files, data={"prompt": "0"} | fields)


def picture(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def spoiled(png: bytes, rng: random.Random) -> bytes:
    """Some bytes changed: lengths, checksums, sizes."""
    changed = bytearray(png)
    for _ in range(8):
        changed[rng.randrange(8, len(changed))] = rng.randrange(256)
    return bytes(changed)


def touched(folder: str) -> set[tuple[str, int, int]]:
    """Files of the server's folder, its home and the model's package, with their sizes and times."""
    import nextscale

    roots = [Path(folder), Path(nextscale.__file__).parent / "assets", Path.home()]
    found = set()
    for root in roots:
        for place, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in (".cache", "node_modules")]
            for name in files:
                stat = (Path(place) / name).lstat()
                found.add((f"{place}/{name}", stat.st_size, stat.st_mtime_ns))
    return found


if __name__ == "__main__":
    cyclopts.run(main)
