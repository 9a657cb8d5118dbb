"""What clients are told of errors: their own in one line, ours by a neutral one, and never what is inside."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from ray.exceptions import RayActorError, RayTaskError

from nextscale.data.decode import UnreadableImage
from nextscale.pipeline import VARPipeline
from nextscale.server.deployment import Replicas
from nextscale.server.jobs import Job, Stage
from nextscale.server.local import LocalBackend
from nextscale.server.problems import FAULT, LONGEST, Refused, on_purpose, refusal
from talk import Client, png, talk_to
from toys import toy_image

INSIDE = 'ray::ImageModel.make() (pid=4242, ip=192.0.2.7)\n  File "/srv/secret/model.py", line 3, in make\nValueError: '


class Failing:
    """A backend whose jobs end in an error, after as many stages as are given."""

    def __init__(self, pipeline: VARPipeline, error: Exception, stages: int = 0) -> None:
        self.inner, self.error, self.stages = LocalBackend(pipeline, "toy"), error, stages

    async def card(self) -> Any:
        return await self.inner.card()

    async def make(self, job: Job) -> AsyncIterator[Stage]:
        for scale in range(self.stages):
            yield Stage(scale, np.zeros((1, 1, 3), np.uint8), False, 0, 1)
        raise self.error


class Remote:
    """Stands for a handle of replicas whose calls raise."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def options(self, **_: Any) -> Remote:
        return self

    @property
    def make(self) -> Remote:
        return self

    def remote(self, _: Job) -> Any:
        error = self.error

        class Stages:
            def cancel(self) -> None: ...

            async def __aiter__(self) -> AsyncIterator[Stage]:
                raise error
                yield

        return Stages()


class Distributed(Failing):
    """Replicas that raise what Ray makes of an error."""

    async def make(self, job: Job) -> AsyncIterator[Stage]:
        async for stage in Replicas(Remote(self.error)).make(job):  # type: ignore[arg-type]
            yield stage


def of_ray(cause: Exception) -> Exception:
    """What Ray raises here when this was raised in a worker: of the cause's class, with the traceback in it."""
    return RayTaskError("make", INSIDE + str(cause), cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("mask: covers nothing"), 400, "mask: covers nothing"),
        (UnreadableImage("image: cut off\nat byte 3"), 400, "image: cut off at byte 3"),
        (KeyError("/srv/secret/key"), 500, FAULT),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "no"), 500, FAULT),
        (RuntimeError("pid 4242"), 500, FAULT),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("remote", [False, True])
def test_a_worker_that_raises(
    pipeline: VARPipeline, caplog: Any, error: Exception, status: int, message: str, stream: bool, remote: bool
) -> None:
    backend = Distributed(pipeline, of_ray(error)) if remote else Failing(pipeline, error)

    async def conversation(client: Client) -> httpx.Response:
        return await client.post("/v1/images/generations", json={"prompt": "red", "stream": stream})

    with caplog.at_level(logging.ERROR, logger="nextscale"):
        answer = talk_to(backend, conversation)
    found = json.loads(answer.text.partition("data: ")[2] or answer.text)["error"]
    assert found["message"] == message
    assert found["type"] == ("invalid_request_error" if status == 400 else "server_error")
    assert set(found) == {"message", "type", "param", "code"}
    assert found["param"] == (
        "mask" if message.startswith("mask:") else "image" if message.startswith("image:") else None
    )
    for word in ("ray::", "4242", "192.0.2.7", "/srv", "Traceback", "secret"):
        assert word not in answer.text and word not in str(answer.headers)
    if not stream:
        assert answer.status_code == status
    assert bool(caplog.records) == (status == 500), "what is not the client's is logged, and only that"


def test_a_stream_that_fails_half_way_ends_with_an_error_event(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> tuple[httpx.Response, httpx.Response]:
        body = {"prompt": "red", "stream": True}
        return await client.post("/v1/images/generations", json=body), await client.get("/healthz")

    answer, health = talk_to(Failing(pipeline, RuntimeError("inside"), stages=2), conversation)
    kinds = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert kinds == ["image_generation.partial_image"] * 2 + ["error"]
    assert "inside" not in answer.text
    assert health.json()["pending"] == 0


def test_replicas_that_keep_dying_are_503(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> httpx.Response:
        return await client.post("/v1/images/generations", json={"prompt": "red"})

    answer = talk_to(Distributed(pipeline, RayActorError(error_msg="died at 192.0.2.7, pid 4242")), conversation)
    assert answer.status_code == 503 and "4242" not in answer.text and answer.headers["retry-after"]


def test_a_backend_without_an_answer_is_a_neutral_500(pipeline: VARPipeline) -> None:
    backend = Failing(pipeline, RuntimeError("x"))

    async def card() -> Any:
        raise OSError("/srv/secret/model is gone")

    backend.card = card  # type: ignore[method-assign]

    async def conversation(client: Client) -> list[httpx.Response]:
        return [await client.get(path) for path in ("/healthz", "/v1/models", "/v1/models/toy")]

    for answer in talk_to(backend, conversation):
        assert answer.status_code == 500 and answer.json()["error"]["message"] == FAULT


def test_a_value_error_out_of_a_library_is_a_fault(pipeline: VARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend(pipeline, "toy")

    async def conversation(client: Client) -> list[httpx.Response]:
        answers = []
        for run in (computing, on_purpose_raised):
            backend.batcher.run = run
            answers.append(await client.post("/v1/images/generations", json={"prompt": "red"}))
        return answers

    def computing(*_: Any) -> Any:
        yield [np.zeros(3) + np.zeros(4)]

    def on_purpose_raised(*_: Any) -> Any:
        raise ValueError("seed: does not fit")
        yield

    fault, wrong = talk_to(backend, conversation)
    assert fault.status_code == 500 and "broadcast" not in fault.text
    assert wrong.status_code == 400 and wrong.json()["error"]["message"] == "seed: does not fit"


def test_on_purpose() -> None:
    def caught(action: Any) -> BaseException:
        try:
            action()
        except ValueError as error:
            return error
        raise AssertionError

    def raising() -> None:
        raise ValueError("ours")

    assert on_purpose(caught(raising))
    assert not on_purpose(caught(lambda: int("x")))
    assert not on_purpose(caught(lambda: json.loads("{")))
    assert not on_purpose(caught(lambda: np.random.default_rng(-1)))


def test_messages_are_a_line_of_bounded_length() -> None:
    told = refusal(ValueError("a\x1b[31m\nb\ud800" + "c" * 10_000)).message
    assert told.startswith("a [31m b ccc") and len(told) < LONGEST + 10
    told.encode()


WRONG_SHAPES: list[tuple[Any, str, str | None, str]] = [
    ({"prompt": "red", "n": "x" * 1_000_000}, "n: Input should be a valid integer", "n", "invalid_type"),
    ({"prompt": "red", "c" * 1_000_000: 1}, "is not a known parameter", "c" * 64, "unknown_parameter"),
    ({"prompt": "p" * 1_000_000}, "prompt: String should have at most 32000 characters", "prompt", "invalid_value"),
    ({"prompt": "red", "guidence": 2}, "did you mean guidance, guided_scales?", "guidence", "unknown_parameter"),
    ({"prompt": "red", "Seed": 2}, "did you mean seed", "Seed", "unknown_parameter"),
    ({"prompt": "red", "qqq": 2}, "known are prompt, model, n", "qqq", "unknown_parameter"),
    ({"n": 1}, "prompt: is missing", "prompt", "missing_required_parameter"),
    ({"prompt": None}, "prompt: is missing", "prompt", "missing_required_parameter"),
    ({"prompt": "red", "response_format": "URL"}, "images are sent as b64_json only", "response_format",
     "unsupported_value"),
    ({"prompt": "red", "background": "transparent"}, "background: Input should be 'auto' or 'opaque'", "background",
     "invalid_value"),
    ({"prompt": "red", "output_compression": 50}, "png loses nothing", "output_compression", "invalid_value"),
    ({"prompt": "red", "output_compression": 101, "output_format": "jpeg"}, "output_compression", "output_compression",
     "invalid_value"),
    ({"prompt": "red", "model": "dall-e-3"}, "toy is", "model", "model_not_found"),
    ({"prompt": "grene"}, "did you mean green", "prompt", "invalid_value"),
    ({"prompt": "red", "n": 9}, "n: at most 8 images", "n", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message", "param", "code"), WRONG_SHAPES)
def test_bodies_name_what_is_wrong(
    pipeline: VARPipeline, body: Any, message: str, param: str | None, code: str
) -> None:
    async def conversation(client: Client) -> httpx.Response:
        return await client.post("/v1/images/generations", json=body)

    answer = talk_to(LocalBackend(pipeline, "toy"), conversation, queue=8)
    error = answer.json()["error"]
    assert message in error["message"]
    assert (error["param"], error["code"]) == (param, code)
    assert len(answer.content) < 2000, "what was sent is not repeated"
    assert answer.status_code == (404 if code == "model_not_found" else 400)


def test_every_status_has_a_whole_body(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> list[httpx.Response]:
        image = png(toy_image(0, 0, 16))
        return [
            await client.get("/nothing"),
            await client.get("/v1/images/generations"),
            await client.post("/v1/images/variations", files={"image": image}),
            await client.post("/v1/images/generations", content=b"{", headers={"content-type": "application/json"}),
            await client.post("/v1/images/edits", content=b"--x", headers={"content-type": "multipart/form-data"}),
            await client.post("/v1/images/generations", content=b" " * 200_000),
        ]

    answers = talk_to(LocalBackend(pipeline, "toy"), conversation, max_body=100_000)
    codes = [answer.json()["error"]["code"] for answer in answers]
    assert codes == [
        "not_found",
        "method_not_allowed",
        "not_found",
        "json_invalid",
        "invalid_value",
        "request_too_large",
    ]
    assert "GET /docs" in answers[0].json()["error"]["message"]
    assert answers[1].headers["allow"] == "POST"
    for answer in answers:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_more_images_than_the_queue_holds_never_fit() -> None:
    from nextscale.server.queues import Admission

    with pytest.raises(Refused) as refused:
        Admission(4).enter(5)
    assert refused.value.status == 400 and "try again" not in refused.value.message
