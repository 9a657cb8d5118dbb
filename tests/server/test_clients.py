"""What OpenAI's clients and browsers send, on a toy model behind uvicorn."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from nextscale.pipeline import VARPipeline
from nextscale.server.app import create_app
from nextscale.server.local import LocalBackend
from nextscale.server.settings import Keys, ServerSettings
from talk import Client, picture, png, served, talk, talk_to
from toys import TEXT, make_pipeline, toy_image

WHOLE = png(Image.new("L", (16, 16), 255))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(create_app(LocalBackend(make_pipeline(), "toy"), ServerSettings(model="toy"))) as address:
        yield address


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def first_image(answer: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))


def test_edits_with_a_list_of_one_image(client: openai.OpenAI, pipeline: VARPipeline) -> None:
    image = toy_image(1, 0, 16)
    file, seed = ("a.png", png(image), "image/png"), {"seed": 4}
    answer = client.images.edit(
        image=[file], mask=("m.png", WHOLE, "image/png"), prompt="red", input_fidelity="high", extra_body=seed
    )
    wanted = pipeline.inpaint(image, Image.open(io.BytesIO(WHOLE)), classes="red", seeds=[4])
    assert first_image(answer).tobytes() == wanted.images[0].tobytes()
    with pytest.raises(openai.BadRequestError, match="one image is taken") as refused:
        client.images.edit(image=[file, file], prompt="red", extra_body=seed)
    assert refused.value.param == "image"


def test_generations_with_every_setting_of_the_client(client: openai.OpenAI, pipeline: VARPipeline) -> None:
    answer = client.images.generate(
        prompt="green", style="vivid", moderation="low", quality="high", background="auto", size="auto", user="me",
        n=None, model=None, response_format="b64_json", output_format="jpeg", output_compression=90, stream=False,
        extra_body={"seed": 3},
    )  # fmt: skip
    plain = client.images.generate(prompt="green", extra_body={"seed": 3})
    assert first_image(answer).format == "JPEG"
    assert first_image(plain).tobytes() == pipeline.generate("green", seeds=[3]).images[0].tobytes()


def test_prompts_of_the_client_are_the_words_of_a_model_that_reads_them() -> None:
    prompted = make_pipeline(text=TEXT)
    with served(create_app(LocalBackend(prompted, "words"), ServerSettings(model="words"))) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        answer = client.images.generate(model="words", prompt="a red heart, big", extra_body={"seed": 3})
    wanted = prompted.generate(["a red heart, big"], seeds=[3]).images[0]
    assert first_image(answer).tobytes() == wanted.tobytes()


def test_client_reads_param_and_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(prompt="green", response_format="url")
    assert (wrong.value.param, wrong.value.code) == ("response_format", "unsupported_value")
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="green", model="gpt-image-9")
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError, match="did you mean guidance") as unknown:
        client.images.generate(prompt="green", extra_body={"guidence": 1})
    assert (unknown.value.param, unknown.value.code) == ("guidence", "unknown_parameter")


def test_head_is_get_without_a_body(url: str) -> None:
    for path in ("/healthz", "/v1/models", "/v1/models/toy", "/docs", "/openapi.json", "/metrics", "/nothing"):
        got, head = httpx.get(url + path), httpx.head(url + path)
        assert head.status_code == got.status_code and head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
    assert httpx.head(f"{url}/v1/images/generations").status_code == 405


def test_null_is_as_if_left_out_and_words_count_in_any_case(pipeline: VARPipeline) -> None:
    names = ("model", "n", "size", "seed", "guidance", "top_k", "top_p", "response_format", "output_format", "stream")
    names += ("output_compression", "partial_images", "user", "quality", "background", "style", "moderation")
    loud = {"size": "AUTO", "quality": "Auto", "background": "AUTO", "output_format": "PNG", "style": "Natural"}

    async def conversation(client: Client) -> list[httpx.Response]:
        bodies = [dict.fromkeys(names) | {"seed": 5}, loud | {"seed": 5}, {"size": "16X16", "seed": 5}]
        return [await client.post("/v1/images/generations", json={"prompt": "RED"} | body) for body in bodies]

    wanted = pipeline.generate("red", seeds=[5]).images[0].tobytes()
    for answer in talk(pipeline, conversation):
        assert answer.status_code == 200, answer.text
        assert picture(answer.json()["data"][0]).tobytes() == wanted


def test_forms_as_clients_send_them(pipeline: VARPipeline) -> None:
    image, mask = png(toy_image(1, 0, 16)), ("mask", ("m.png", WHOLE))
    empty = [("n", (None, "")), ("stream", (None, "null")), ("feather", (None, "null")), ("seed", (None, "4"))]
    forms: list[tuple[list[Any], str]] = [
        ([("image", image), mask, *empty, ("prompt", (None, "red"))], ""),
        ([("image[]", image), mask, *empty, ("prompt", (None, "RED"))], ""),
        ([("image[0]", image), mask, *empty, ("prompt", (None, "red")), ("size", (None, "AUTO"))], ""),
        ([("image", image), ("image", image), mask], "image: is given more than once; one image is taken"),
        ([("image", image), ("image[]", image), mask], "image: is given more than once; one image is taken"),
        ([("image[]", image), ("image[]", image), mask], "image: is given more than once; one image is taken"),
        ([("image", image), mask, mask], "mask: is given more than once"),
        ([("image", image), mask, ("n", (None, "1")), ("n", (None, "2"))], "n: is given more than once; give it once"),
        ([("image", (None, "text")), mask], "image: expected a file, got text"),
        ([("image", image), mask, ("fether", (None, "1"))], "fether: is not a known parameter; did you mean feather"),
        ([mask], "image: is missing"),
    ]

    async def conversation(client: Client) -> list[httpx.Response]:
        return [await client.post("/v1/images/edits", files=files) for files, _ in forms]

    wanted = pipeline.inpaint(toy_image(1, 0, 16), Image.open(io.BytesIO(WHOLE)), classes="red", seeds=[4]).images[0]
    for answer, (_, message) in zip(talk(pipeline, conversation), forms, strict=True):
        if message:
            assert answer.status_code == 400 and message in answer.json()["error"]["message"]
        else:
            assert answer.status_code == 200, answer.text
            assert picture(answer.json()["data"][0]).tobytes() == wanted.tobytes()


def test_edits_take_auto_in_any_case(pipeline: VARPipeline) -> None:
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 8))
    files = {"image": png(toy_image(1, 0, 16)), "mask": png(mask)}

    async def conversation(client: Client) -> list[httpx.Response]:
        return [
            await client.post("/v1/images/edits", files=files, data={"seed": "1", "prompt": prompt})
            for prompt in ("auto", "AUTO", "none", "None")
        ]

    labels = [answer.json()["data"][0]["label"] for answer in talk(pipeline, conversation)]
    assert labels[0] is not None and labels == [labels[0], labels[0], None, None]


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_compression_is_the_quality_of_the_file(pipeline: VARPipeline, form: str) -> None:
    async def conversation(client: Client) -> list[httpx.Response]:
        body = {"prompt": "red", "seed": 1, "output_format": form}
        settings = [{}, {"output_compression": 1}, {"output_compression": 100}]
        return [await client.post("/v1/images/generations", json=body | more) for more in settings]

    files = [base64.b64decode(one.json()["data"][0]["b64_json"]) for one in talk(pipeline, conversation)]
    image = pipeline.generate("red", seeds=[1]).images[0]
    for file, options in zip(files, ({}, {"quality": 1}, {"quality": 100}), strict=True):
        buffer = io.BytesIO()
        image.save(buffer, format=form.upper(), **options)
        assert file == buffer.getvalue()
    assert len(files[1]) < len(files[2])


def test_pages_of_listed_origins_may_use_the_server(pipeline: VARPipeline) -> None:
    asking = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}

    async def conversation(client: Client) -> list[httpx.Response]:
        path, answers = "/v1/images/generations", []
        for origin in ("https://one.example", "https://two.example"):
            answers.append(await client.options(path, headers={"origin": origin} | asking))
            answers.append(await client.post(path, json={}, headers={"origin": origin}))
        return answers

    keys = Keys(["k"])
    backend = LocalBackend(pipeline, "toy")
    allowed, answered, refused, unseen = talk_to(backend, conversation, keys, cors_origins=("https://One.example/",))
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://one.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert answered.status_code == 401 and answered.headers["access-control-allow-origin"] == "https://one.example"
    assert "access-control-allow-origin" not in {*refused.headers, *unseen.headers}
    assert refused.status_code == 400
    for answer in talk_to(backend, conversation, keys):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert talk_to(backend, conversation, keys, cors_origins=("*",))[3].headers["access-control-allow-origin"] == "*"
    for wrong in ("one.example", "https://one.example/page", ""):
        with pytest.raises(ValueError, match="cors_origins.*expected"):
            ServerSettings(cors_origins=(wrong,))


def test_docs_need_no_internet(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> str:
        answer = await client.get("/docs")
        assert answer.headers["content-type"].startswith("text/html")
        return answer.text

    page = talk(pipeline, conversation)
    assert "http://" not in page and "https://" not in page and "<script" not in page
    routes, fields = ("POST /v1/images/generations", "POST /v1/images/edits"), ("image</code><td>file", "guidance")
    for word in (*routes, *fields, "png, jpeg, webp", "Images; image i has seed + i.", "b64_json", "default 0"):
        assert word in page, word


def test_a_line_of_the_log_for_every_request(pipeline: VARPipeline, caplog: pytest.LogCaptureFixture) -> None:
    async def conversation(client: Client) -> None:
        secret = {"authorization": "Bearer sesame"}
        await client.post("/v1/images/generations", json={"prompt": "green", "n": 2}, headers=secret)
        await client.post("/v1/images/generations", json={"prompt": "red", "stream": True}, headers=secret)
        await client.post("/v1/images/generations?prompt=green", json={"prompt": "green"})
        await client.head("/healthz")
        await client.get("/v1/models/a%0a%1bb" + "c" * 500, headers=secret)

    keys = Keys(["sesame"])
    with caplog.at_level(logging.INFO, logger="nextscale"):
        talk_to(LocalBackend(pipeline, "toy"), conversation, keys)
    lines = [record.getMessage() for record in caplog.records]
    path = "POST /v1/images/generations"
    assert [line.partition(", ")[0] for line in lines[:4]] == [
        f"{path} 200", f"{path} 200", f"{path} 401", "HEAD /healthz 200"
    ]  # fmt: skip
    assert lines[0].endswith(" ms, 2 images") and lines[1].endswith(" ms, 1 image") and lines[2].endswith(" ms")
    assert len(lines) == 5 and "\n" not in lines[4] and "\x1b" not in lines[4] and len(lines[4]) < 200
    assert not [line for line in lines if "sesame" in line or "green" in line]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="nextscale"):
        talk_to(LocalBackend(pipeline, "toy"), conversation, keys, access_log=False)
    assert not caplog.records


def test_figures_count_routes_by_their_path(pipeline: VARPipeline) -> None:
    async def conversation(client: Client) -> str:
        await client.post("/v1/images/edits")
        await client.head("/healthz")
        return (await client.get("/metrics")).text

    figures = talk(pipeline, conversation)
    assert 'nextscale_requests_total{path="/v1/images/edits",status="400"} 1.0' in figures
    assert 'nextscale_requests_total{path="/healthz",status="200"} 1.0' in figures


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfalpha\r\n\r\n# ours\r\nbeta\r\n", b"\r\n alpha \n\n\xef\xbb\xbf\nbeta"])
def test_key_files_of_any_editor(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "keys").write_bytes(text)
    keys = Keys.read(str(tmp_path / "keys"))
    assert keys.accept("alpha") and keys.accept("beta")
    assert not keys.accept("") and not keys.accept("\ufeff") and not keys.accept("\ufeffalpha")


def test_keys_beyond_ascii_are_compared_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("schlüssel", encoding="utf-8")
    keys = Keys.read(str(tmp_path / "keys"))
    assert keys.accept("schlüssel".encode().decode("latin-1")), "as a server hands a header over"


@pytest.mark.parametrize("text", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\r\n", b"\xef\xbb\xbf# none\n"])
def test_key_files_without_a_key(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "keys").write_bytes(text)
    with pytest.raises(ValueError, match="holds no key"):
        Keys.read(str(tmp_path / "keys"))


def test_a_folder_is_served_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    assert ServerSettings(model=str(tmp_path / "mine")).served_name == "mine"
    monkeypatch.chdir(tmp_path / "mine")
    assert ServerSettings(model=".").served_name == "mine"
    assert ServerSettings(model="var-d16").served_name == "var-d16"
    assert ServerSettings(model="someone/var").served_name == "someone/var"
