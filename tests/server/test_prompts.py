"""The Images API in front of a model of prompts: the prompt is text, and images are those of the pipeline."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from PIL import Image

from nextscale.pipeline import VARPipeline
from talk import Client, picture, png, talk
from toys import TEXT, make_pipeline, toy_image

ODD = ["", "\x00", "\u2603", "\u05dc\u05d1 \u05d0\u05d3\u05d5\u05dd", "x" * 10_000, "none"]


@pytest.fixture(scope="module")
def prompted() -> VARPipeline:
    return make_pipeline(text=TEXT)


def test_a_prompt_is_text(prompted: VARPipeline) -> None:
    image, mask = toy_image(1, 0, 16), Image.new("L", (16, 16), 255)

    async def conversation(client: Client) -> list[httpx.Response]:
        body: dict[str, Any] = {"prompt": "a Red heart", "n": 2, "seed": 7, "negative_prompt": "blue"}
        files = {"image": png(image), "mask": png(mask)}
        return [
            await client.get("/v1/models"),
            await client.post("/v1/images/generations", json=body),
            await client.post("/v1/images/edits", files=files, data={"prompt": "cat", "seed": "3"}),
            await client.post("/v1/images/edits", files=files, data={"seed": "3"}),
            *[await client.post("/v1/images/generations", json={"prompt": odd, "seed": 1}) for odd in ODD],
        ]

    models, made, edited, without, *odd = talk(prompted, conversation)
    assert models.json()["data"][0]["takes"] == "prompts" and models.json()["data"][0]["classes"] == []
    wanted = prompted.generate("a Red heart", seeds=[7, 8], negative_prompt="blue")
    for data, expected in zip(made.json()["data"], wanted.images, strict=True):
        assert data["label"] == "a Red heart" and picture(data).tobytes() == expected.tobytes()
    assert edited.json()["data"][0]["label"] == "cat" and without.json()["data"][0]["label"] is None
    assert picture(edited.json()["data"][0]).tobytes() != picture(without.json()["data"][0]).tobytes()
    assert [answer.status_code for answer in odd] == [200] * len(ODD), odd[-1].text
    assert [answer.json()["data"][0]["label"] for answer in odd] == [None, *ODD[1:]]


def test_models_of_classes_say_so(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> list[httpx.Response]:
        return [
            await client.get("/v1/models"),
            await client.post("/v1/images/generations", json={"prompt": "x" * 10_000}),
            await client.post("/v1/images/generations", json={"prompt": "red", "negative_prompt": "blue"}),
        ]

    models, long, negative = talk(pipeline, conversation)
    assert models.json()["data"][0]["takes"] == "classes"
    assert long.status_code == negative.status_code == 400
    assert "the model draws classes, whose names are shorter" in long.json()["error"]["message"]
    assert "negative_prompt: the model draws classes, not prompts" in negative.json()["error"]["message"]
