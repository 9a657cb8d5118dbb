"""The Images API in front of a toy model, in this process: answers, refusals, streams, batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from nextscale.pipeline import VARPipeline
from nextscale.server.jobs import Job, Stage, generation_jobs, previews
from nextscale.server.local import LocalBackend, card_of
from nextscale.server.queues import Admission
from nextscale.server.schema import GenerationRequest
from nextscale.server.settings import Keys, ServerSettings
from talk import Client, picture, png, talk, talk_to
from toys import make_baseline, make_pipeline, toy_image


def test_generations_are_those_of_the_pipeline(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> httpx.Response:
        body = {"prompt": "green", "n": 3, "seed": 7, "guidance": 1.5, "top_k": 4, "top_p": 0.8, "model": "toy"}
        return await client.post("/v1/images/generations", json=body)

    answer = talk(pipeline, conversation)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["size"] == "16x16" and found["output_format"] == "png"
    assert [(one["seed"], one["label"]) for one in found["data"]] == [(7, "green"), (8, "green"), (9, "green")]
    wanted = pipeline.generate("green", seeds=[7, 8, 9], guidance=1.5, top_k=4, top_p=0.8)
    for data, image in zip(found["data"], wanted.images, strict=True):
        assert picture(data).tobytes() == image.tobytes()


def test_settings_per_scale_come_as_lists_or_as_text(pipeline: VARPipeline) -> None:
    image, mask = toy_image(1, 0, 16), Image.new("L", (16, 16), 255)
    settings = {"prompt": "green", "seed": 7, "guided_scales": 2}

    async def conversation(client: Client) -> list[httpx.Response]:
        bodies = [settings | {"temperatures": value} for value in ([3, 1, 0.5], "3, 1,0.5", None)]
        form = {name: str(value) for name, value in settings.items()} | {"temperatures": "3,1,0.5"}
        files = {"image": png(image), "mask": png(mask)}
        return [
            *[await client.post("/v1/images/generations", json=body) for body in bodies],
            await client.post("/v1/images/edits", files=files, data=form),
        ]

    answers = talk(pipeline, conversation)
    assert [answer.status_code for answer in answers] == [200] * 4, answers[-1].text
    made = [picture(answer.json()["data"][0]).tobytes() for answer in answers]
    own: dict[str, Any] = {"seeds": [7], "guided_scales": 2}
    warm = pipeline.generate("green", temperatures=[3, 1, 0.5], **own).images[0]
    assert made[0] == made[1] == warm.tobytes() != made[2]
    assert made[2] == pipeline.generate("green", **own).images[0].tobytes()
    edited = pipeline.inpaint(image, np.asarray(mask), classes="green", temperatures=[3, 1, 0.5], **own).images[0]
    assert made[3] == edited.tobytes()


def test_settings_per_scale_are_refused_before_anything_is_queued(pipeline: VARPipeline) -> None:
    def refused(model: VARPipeline, message: str, **settings: Any) -> None:
        wanted = GenerationRequest(prompt="0", **settings)
        with pytest.raises(ValueError, match=message):
            generation_jobs(wanted, card_of(model, "toy"), ServerSettings(model="toy"))

    refused(pipeline, "guided_scales: settings of 5 scales, the model has 4", guided_scales=5)
    refused(pipeline, "temperatures: settings of 5 scales, the model has 4", temperatures=[1.0] * 5)
    message = "guided_scales and temperatures are next-scale prediction's; this is a model of another kind"
    refused(make_baseline("raster"), message, guided_scales=1)
    refused(pipeline, "spatial_guidance: strengths of 4 scales after the first", spatial_guidance=[1.0] * 4)
    refused(pipeline, "this model draws its last map at once", refine_steps=2)


def test_the_last_map_comes_in_as_many_passes_as_a_request_says() -> None:
    pipeline, warm = make_pipeline(refinable=True), {"top_p": 0.0, "top_k": 0, "temperatures": [20.0]}

    async def conversation(client: Client) -> list[httpx.Response]:
        bodies = [{"prompt": "green", "seed": 7, "refine_steps": steps, **warm} for steps in (1, 3)]
        return [await client.post("/v1/images/generations", json=body) for body in bodies]

    made = [picture(answer.json()["data"][0]).tobytes() for answer in talk(pipeline, conversation)]
    for image, steps in zip(made, (1, 3), strict=True):
        assert image == pipeline.generate("green", seeds=[7], refine_steps=steps, **warm).images[0].tobytes()
    assert made[0] != made[1]


def test_classes_by_id_and_none(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> list[httpx.Response]:
        return [
            await client.post("/v1/images/generations", json={"prompt": prompt, "seed": 3}) for prompt in ("2", "none")
        ]

    by_id, nobody = talk(pipeline, conversation)
    assert picture(by_id.json()["data"][0]).tobytes() == pipeline.generate(2, seeds=[3]).images[0].tobytes()
    assert picture(nobody.json()["data"][0]).tobytes() == pipeline.generate(None, seeds=[3]).images[0].tobytes()
    assert nobody.json()["data"][0]["label"] is None


def test_requests_that_come_together_are_made_together_and_stay_as_they_are(pipeline: VARPipeline) -> None:
    backend = LocalBackend(pipeline, "toy", batch_size=4)
    together: list[int] = []
    make = backend.make

    async def counted(job: Job) -> AsyncIterator[Stage]:
        async for stage in make(job):
            together.append(stage.together)
            yield stage

    backend.make = counted  # type: ignore[method-assign]

    async def conversation(client: Client) -> list[httpx.Response]:
        bodies = [{"prompt": str(i % 3), "seed": i, "guidance": 1.0 + i % 2} for i in range(12)]
        return await asyncio.gather(*(client.post("/v1/images/generations", json=body) for body in bodies))

    answers = talk_to(backend, conversation)
    for i, answer in enumerate(answers):
        wanted = pipeline.generate(i % 3, seeds=[i], guidance=1.0 + i % 2).images[0]
        assert picture(answer.json()["data"][0]).tobytes() == wanted.tobytes()
    assert max(together) > 1, "nothing was batched"
    assert max(together) <= 4


def test_a_stream_shows_every_scale_and_ends_with_the_image(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> str:
        body = {"prompt": "red", "seed": 5, "stream": True}
        async with client.stream("POST", "/v1/images/generations", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            return (await answer.aread()).decode()

    events = [
        json.loads(line.removeprefix("data: ")) for line in talk(pipeline, conversation).splitlines() if "{" in line
    ]
    kinds = [one["type"] for one in events]
    assert kinds == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [one["partial_image_index"] for one in events[:-1]] == [0, 1, 2]
    steps = list(pipeline.generate_steps("red", seeds=[5]))
    for shown, step in zip(events, steps, strict=True):
        assert picture(shown).tobytes() == step.preview()[0].tobytes()
    assert events[-1]["seed"] == 5 and events[-1]["label"] == "red"


def test_previews_are_spread_over_the_scales() -> None:
    def chosen(count: int | None) -> list[int]:
        return sorted(previews(GenerationRequest(prompt="0", stream=True, partial_images=count), 10))

    assert chosen(None) == list(range(9))
    assert chosen(0) == []
    assert chosen(3) == [2, 5, 8]
    assert chosen(50) == list(range(9))


def test_edits_are_those_of_the_pipeline(pipeline: VARPipeline) -> None:
    image = toy_image(1, 0, 16)
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[4:12, 4:12] = 255
    transparent = image.convert("RGBA")
    transparent.putalpha(Image.fromarray(255 - mask))

    async def conversation(client: Client) -> list[httpx.Response]:
        files = {"image": png(image), "mask": png(Image.fromarray(mask))}
        return [
            await client.post("/v1/images/edits", files=files, data={"prompt": "red", "n": "2", "seed": "4"}),
            await client.post("/v1/images/edits", files={"image": png(transparent)}, data={"seed": "4"}),
            await client.post(
                "/v1/images/edits", files={"image": png(image)}, data={"prompt": "red", "seed": "1", "keep_scales": "4"}
            ),
        ]

    by_mask, by_alpha, restyled = talk(pipeline, conversation)
    assert by_mask.status_code == 200, by_mask.text
    for number, data in enumerate(by_mask.json()["data"]):
        wanted = pipeline.inpaint(image, mask, classes="red", seeds=[4 + number]).images[0]
        assert picture(data).tobytes() == wanted.tobytes()
    wanted = pipeline.inpaint(transparent_over_white(transparent), mask, seeds=[4])
    assert picture(by_alpha.json()["data"][0]).tobytes() == wanted.images[0].tobytes()
    assert by_alpha.json()["data"][0]["label"] == pipeline.class_names[wanted.classes[0]]
    assert restyled.status_code == 200, restyled.text


def transparent_over_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def test_models_and_health(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> list[httpx.Response]:
        paths = ("/v1/models", "/v1/models/toy", "/v1/models/other", "/healthz", "/openapi.json", "/metrics")
        return [await client.get(path) for path in paths]

    every, one, other, health, document, figures = talk(pipeline, conversation)
    assert every.json()["data"] == [one.json()]
    assert one.json()["classes"] == ["blue", "green", "red"] and one.json()["size"] == "16x16"
    assert other.status_code == 404 and "toy is" in other.json()["error"]["message"]
    assert health.json() == {"status": "ok", "model": "toy", "pending": 0}
    assert set(document.json()["paths"]) == {
        "/v1/models", "/v1/models/{model}", "/v1/images/generations", "/v1/images/edits"
    }  # fmt: skip
    assert 'nextscale_requests_total{path="/v1/models/{model:path}",status="404"} 1.0' in figures.text


WRONG = [
    ({"prompt": "grene"}, "did you mean green"),
    ({"prompt": "3"}, "ids go from 0 to 2"),
    ({"prompt": "9" * 400}, "ids go from 0 to 2"),
    ({"prompt": "../../etc/passwd"}, "is not known"),
    ({}, "prompt"),
    ({"prompt": "red", "n": 0}, "n"),
    ({"prompt": "red", "n": 11}, "at most 10 images"),
    ({"prompt": "red", "size": "1024x1024"}, "16x16"),
    ({"prompt": "red", "top_p": 2}, "top_p"),
    ({"prompt": "red", "guidance": 1e9}, "guidance"),
    ({"prompt": "red", "seed": -1}, "seed"),
    ({"prompt": "red", "guided_scales": -1}, "guided_scales: Input should be greater than or equal to 0"),
    ({"prompt": "red", "guided_scales": 5}, "guided_scales: settings of 5 scales, the model has 4"),
    ({"prompt": "red", "temperatures": [1, 1, 1, 1, 1]}, "temperatures: settings of 5 scales, the model has 4"),
    ({"prompt": "red", "temperatures": "1,warm"}, "temperatures.1: Input should be a valid number"),
    ({"prompt": "red", "temperatures": [0]}, "temperatures.0: Input should be greater than 0"),
    ({"prompt": "red", "temperatures": ",".join(["1"] * 99)}, "temperatures"),
    ({"prompt": "red", "temperatures": 1.1}, "temperatures: Input should be a valid list"),
    ({"prompt": "red", "response_format": "url"}, "response_format"),
    ({"prompt": "red", "colour": "blue"}, "colour"),
    ({"prompt": "red", "stream": True, "n": 2}, "a stream shows one image"),
    ([1, 2], ""),
]


@pytest.mark.parametrize(("body", "message"), WRONG)
def test_wrong_requests_are_told_in_one_line(pipeline: VARPipeline, body: Any, message: str) -> None:
    async def conversation(client: Client) -> httpx.Response:
        return await client.post("/v1/images/generations", json=body)

    answer = talk(pipeline, conversation)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"] and "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


def test_wrong_uploads_are_told_in_one_line(pipeline: VARPipeline) -> None:
    good = png(toy_image(0, 0, 16))
    bomb = png(Image.new("1", (30_000, 30_000)))
    whole = png(Image.new("L", (16, 16), 255))
    wrong: list[tuple[dict[str, bytes], dict[str, str], str]] = [
        ({"image": b"no image", "mask": whole}, {}, "image: not a PNG, JPEG or WebP image"),
        ({"image": good[:60], "mask": whole}, {}, "image"),
        ({"image": good, "mask": good[:70]}, {}, "mask"),
        ({"image": bomb, "mask": whole}, {}, "at most 16,000,000 are taken"),
        ({"image": good, "mask": bomb}, {}, "at most 16,000,000 are taken"),
        ({"image": good}, {}, "give either, or keep_scales"),
        ({"image": good}, {"keep_scales": "5"}, "the model has 4 scales"),
        ({"image": good, "mask": png(Image.new("L", (16, 9)))}, {}, "give a mask of the image's size"),
        ({"image": good, "mask": png(Image.new("L", (16, 16)))}, {}, "keeps everything, so that nothing would change"),
        ({"mask": whole}, {}, "image"),
        ({"image": b"%!PS-Adobe-3.0 EPSF-3.0", "mask": whole}, {}, "not a PNG, JPEG or WebP image"),
    ]

    async def conversation(client: Client) -> list[httpx.Response]:
        return [
            await client.post("/v1/images/edits", files=files, data={"seed": "0"} | data) for files, data, _ in wrong
        ]

    for answer, (_, _, message) in zip(talk(pipeline, conversation), wrong, strict=True):
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["error"]["message"]


def test_large_bodies_are_refused_announced_or_not(pipeline: VARPipeline) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 100

    async def conversation(client: Client) -> list[httpx.Response]:
        return [
            await client.post("/v1/images/generations", content=b" " * 4000),
            await client.post("/v1/images/generations", content=chunks(), headers={"content-type": "application/json"}),
        ]

    for answer in talk(pipeline, conversation, max_body=1000):
        assert answer.status_code == 413 and "at most 1,000 bytes" in answer.json()["error"]["message"]


def test_keys(pipeline: VARPipeline, tmp_path: Any) -> None:
    (tmp_path / "keys").write_text("# ours\nalpha\n\nbeta\n")
    keys = Keys.read(str(tmp_path / "keys"))

    async def conversation(client: Client) -> list[int]:
        tries = [
            {},
            {"authorization": "Bearer gamma"},
            {"authorization": "Basic alpha"},
            {"authorization": "Bearer beta"},
        ]
        answers = [await client.get("/v1/models", headers=headers) for headers in tries]
        assert answers[0].headers["www-authenticate"] == "Bearer"
        return [answer.status_code for answer in answers] + [(await client.get("/healthz")).status_code]

    assert talk_to(LocalBackend(pipeline, "toy"), conversation, keys) == [401, 401, 401, 200, 200]
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(ValueError, match="holds no key"):
        Keys.read(str(tmp_path / "keys"))
    with pytest.raises(ValueError, match="cannot be read"):
        Keys.read(str(tmp_path / "absent"))


class Stuck:
    """A backend that never answers, and counts who asked and who gave up."""

    def __init__(self, pipeline: VARPipeline) -> None:
        self.inner = LocalBackend(pipeline, "toy")
        self.given_up = 0
        self.asked = asyncio.Semaphore(0)

    async def card(self) -> Any:
        return await self.inner.card()

    async def make(self, job: Job) -> AsyncIterator[Stage]:
        self.asked.release()
        try:
            await asyncio.Event().wait()
            yield Stage(0, np.zeros((1, 1, 3), np.uint8), True, 0, 1)
        finally:
            self.given_up += 1


def test_a_full_queue_answers_429(pipeline: VARPipeline) -> None:
    backend = Stuck(pipeline)

    async def conversation(client: Client) -> httpx.Response:
        body = {"prompt": "red", "n": 2}
        first = asyncio.create_task(client.post("/v1/images/generations", json=body))
        for _ in range(2):
            await backend.asked.acquire()
        second = await client.post("/v1/images/generations", json=body)
        assert not first.done()
        first.cancel()
        await asyncio.wait([first])
        return second

    second = talk_to(backend, conversation, queue=3)
    assert second.status_code == 429 and int(second.headers["retry-after"]) >= 1
    assert second.json()["error"]["type"] == "rate_limit_error"
    assert backend.given_up == 2


def test_deadlines_answer_504(pipeline: VARPipeline) -> None:
    backend = Stuck(pipeline)

    async def conversation(client: Client) -> list[httpx.Response]:
        late = await client.post("/v1/images/generations", json={"prompt": "red", "n": 2})
        third = await client.post("/v1/images/generations", json={"prompt": "red", "stream": True})
        return [late, third, await client.get("/healthz")]

    late, third, health = talk_to(backend, conversation, queue=3, deadline=0.1)
    assert late.status_code == 504 and "within 0.1 s" in late.json()["error"]["message"]
    assert "event: error" in third.text
    assert health.json()["pending"] == 0 and backend.given_up == 3


def test_a_draining_server_takes_nothing_new() -> None:
    admission = Admission(4)
    admission.enter(3)
    admission.draining = True
    with pytest.raises(Exception, match="is stopping") as refused:
        admission.enter(1)
    assert refused.value.status == 503  # type: ignore[attr-defined]
    admission.leave(3)
    assert admission.pending == 0
