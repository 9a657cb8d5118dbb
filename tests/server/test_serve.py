"""`nextscale serve` as a process of its own, talked to with OpenAI's client."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from nextscale.environment import POLICIES
from nextscale.pipeline import VARPipeline
from stress.running_server import Server, command_of
from toys import make_pipeline, toy_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    far = folder / ("a" * 60) / ("b" * 60)
    far.mkdir(parents=True)
    make_pipeline().save_pretrained(folder / "model")
    (folder / "keys").write_text("sesame\n")
    # No home folder, and one for temporary files that is too long for sockets.
    chosen = {"OMP_NUM_THREADS": "1", "HOME": "/proc/nobody", "TMPDIR": str(far)}
    kept = {name: value for name, value in os.environ.items() if name not in POLICIES}
    options = ["--api-key-file", str(folder / "keys"), "--queue", "40"]
    with Server(str(folder / "model"), *options, environment=kept | chosen) as running:
        yield running


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0)


def picture(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_openai_client_generates_what_the_pipeline_does(server: Server, pipeline: VARPipeline) -> None:
    client = client_of(server.url)
    model = client.models.list().data[0].id
    answer = client.images.generate(model=model, prompt="green", n=2, extra_body={"seed": 11, "guidance": 1.0})
    wanted = pipeline.generate("green", seeds=[11, 12], guidance=1.0).images
    assert [picture(one.b64_json).tobytes() for one in answer.data or []] == [one.tobytes() for one in wanted]


def test_openai_client_edits_what_the_pipeline_does(server: Server, pipeline: VARPipeline) -> None:
    image = toy_image(2, 1, 24)
    mask = Image.new("RGBA", image.size, "black")
    mask.putalpha(Image.fromarray(np.where(np.indices((24, 24)).sum(0) < 20, 0, 255).astype(np.uint8)))
    files = []
    for one in (image, mask):
        buffer = io.BytesIO()
        one.save(buffer, format="PNG")
        files.append(("image.png", buffer.getvalue(), "image/png"))
    answer = client_of(server.url).images.edit(image=files[0], mask=files[1], prompt="red", n=2, extra_body={"seed": 3})
    for number, one in enumerate(answer.data or []):
        wanted = pipeline.inpaint(image, mask, classes="red", seeds=[3 + number]).images[0]
        assert picture(one.b64_json).tobytes() == wanted.tobytes()


def test_openai_client_streams_every_scale(server: Server, pipeline: VARPipeline) -> None:
    events = list(
        client_of(server.url).images.generate(prompt="blue", stream=True, partial_images=3, extra_body={"seed": 2})
    )
    assert [one.type for one in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    for one, step in zip(events, pipeline.generate_steps("blue", seeds=[2]), strict=True):
        assert picture(one.b64_json).tobytes() == step.preview()[0].tobytes()


def test_keys_and_wrong_requests(server: Server) -> None:
    client = client_of(server.url)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="open").models.list()
    with pytest.raises(openai.BadRequestError, match="did you mean green"):
        client.images.generate(prompt="grene")
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="green", model="dall-e-3")


def test_a_killed_replica_is_replaced_and_its_work_done_again(server: Server) -> None:
    assert server.replicas()
    server.kill_replicas()
    assert len(client_of(server.url).images.generate(prompt="red", n=3, timeout=90).data or []) == 3


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_only_this_machine_reaches_any_port(server: Server) -> None:
    sockets = set()
    for pid in server.processes():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(entry.readlink().name)
    open_to_all, listening = [], 0
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "0000000000000000FFFF00000100007F")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening += 1
                if fields[1].partition(":")[0] != loopback:
                    open_to_all.append(fields[1])
    assert listening > 5
    assert not open_to_all


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_waiting_threads_of_the_model_are_passive(server: Server) -> None:
    assert server.replicas()
    for pid in server.replicas():
        assert b"OMP_WAIT_POLICY=PASSIVE" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_requests_have_names(server: Server) -> None:
    given = httpx.get(f"{server.url}/healthz", headers={"x-request-id": "mine"})
    assert given.headers.get_list("x-request-id") == ["mine"]
    assert len(httpx.get(f"{server.url}/healthz").headers.get_list("x-request-id")) == 1


def test_the_model_is_called_by_its_folders_name(server: Server) -> None:
    assert httpx.get(f"{server.url}/healthz").json()["model"] == "model"


def test_sigterm_finishes_what_was_accepted(server: Server) -> None:
    command = b" ".join(command_of(pid) for pid in server.processes())
    (folder,) = set(re.findall(rb"--temp_dir=([^ \0]+)", command.replace(b"\0", b" ")))
    folder = Path(os.fsdecode(folder)).parent
    assert folder.stat().st_mode & 0o077 == 0, "logs are nobody else's business"

    def ask(seed: int) -> int:
        body = {"prompt": "green", "n": 4, "seed": seed}
        answer = httpx.post(
            f"{server.url}/v1/images/generations", json=body, headers={"authorization": "Bearer sesame"}, timeout=60
        )
        return answer.status_code

    def works() -> bool:
        return "nextscale_images_pending 0.0" not in httpx.get(f"{server.url}/metrics").text

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, seed) for seed in range(8)]
        while not works() and not any(one.done() for one in asked):
            pass
        server.process.send_signal(signal.SIGTERM)
        statuses = [one.result() for one in asked]
    assert set(statuses) <= {200, 503} and 200 in statuses
    assert server.wait() == 0
    assert not folder.exists()
    assert "loading" in server.lines[0] and any("serving" in line for line in server.lines)
    assert any(re.search(r"POST /v1/images/generations 200, \d+ ms, 4 images$", line) for line in server.lines)
    assert not [line for line in server.lines if not re.match(r"\d\d:\d\d:\d\d ", line)], "none but our own words"
    assert not [line for line in server.lines if "sesame" in line]
