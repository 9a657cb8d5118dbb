"""The page in a real browser: its models draw what ours draw, and every chapter does what it says."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextscale.explain.server import SITE, write_page

onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = pytest.mark.slow
CHAPTERS = ("order", "pyramid", "mask", "training", "generate", "scaling", "speed", "edit", "connections", "sheet")
ASK = "([task, given]) => lab.engine.ask(task, given)"


@cache
def sampler(name: str) -> Any:
    """The reference sampler on a model of the page; raster order has no encoder there."""
    spec = spec_from_file_location("onnx_sample", ROOT / "examples" / "onnx_sample.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    model = object.__new__(module.OnnxModel)
    session = onnxruntime.InferenceSession

    def load(path: Path, options: Any = None) -> Any:
        return session(path, options) if path.exists() else None

    module.onnxruntime = type("runtime", (), {"InferenceSession": staticmethod(load), "SessionOptions": None})
    with TemporaryDirectory() as folder:
        write_page(Path(folder) / "page")  # with the weights that a server adds
        model.__init__(Path(folder) / "page" / "models" / name)
    return model


def see(page: Any, chapter: str) -> Any:
    """A chapter, scrolled into view."""
    section = page.locator(f"#{chapter}")
    section.scroll_into_view_if_needed()
    return section


def still(name: str = "leaper") -> np.ndarray:
    return np.asarray(Image.open(SITE / "stills" / f"{name}.png").convert("RGBA"))


@pytest.mark.parametrize("name", ["demo", "demo-raster"])
def test_the_browser_draws_the_tokens_of_python(page: Any, name: str) -> None:
    """Greedily and with seeds, beyond 32 bits too."""
    model = sampler(name)
    for label, seed in ((3, None), (11, 5), (0, 2**33 + 1)):
        given = {"model": name, "label": label, "seed": seed, "settings": {}, "every": 1000}
        found = page.evaluate(ASK, ["generate", given])
        tokens, image = model.sample(label, seed)
        assert found["tokens"] == [part[0].tolist() for part in tokens]
        pixels = np.array(found["pixels"], np.float32).reshape(image.shape)
        assert np.abs(pixels - image).max() < 1e-3


def test_dials_are_those_of_python(page: Any) -> None:
    model = sampler("demo")
    settings = {"guidance": 2.5, "top_k": 20, "top_p": 0.8, "temperature": 0.9, "spatial_guidance": [0.0, *[0.3] * 6]}
    given = {"model": "demo", "label": 5, "seed": 9, "settings": settings, "every": 1000}
    found = page.evaluate(ASK, ["generate", given])
    assert found["tokens"] == [part[0].tolist() for part in model.sample(5, 9, **settings)[0]]


def test_a_dropped_picture_has_our_pyramid(page: Any) -> None:
    """The file goes through the page's own input; pictures of 64 x 64 pixels keep theirs."""
    section = see(page, "pyramid")
    section.get_by_role("button", name="the ready picture maze").wait_for()
    section.locator("input[type=file]").set_input_files(str(SITE / "stills" / "bigfish.png"))
    section.get_by_text(re.compile(r"bigfish\.png: 64 . 64 .* tokens")).wait_for()
    shown = section.locator(".tokens button").evaluate_all("cells => cells.map(c => c.ariaLabel.split('token ')[1])")
    model, rgba = sampler("demo"), still("bigfish")
    pixels = (rgba[..., :3].transpose(2, 0, 1)[None] / 127.5 - 1).astype(np.float32)
    tokens = model.tokenise(pixels)
    assert list(map(int, shown)) == np.concatenate(tokens, axis=1)[0].tolist()
    ask = "rgba => lab.engine.ask('tokenise', {rgba: Uint8ClampedArray.from(rgba)}).then(r => r.left)"
    found = page.evaluate(ask, rgba.ravel().tolist())
    (features,), left = model.run("encoder", images=pixels), []
    accumulated = np.zeros_like(features)
    for scale, one in enumerate(tokens):
        accumulated = model.add(accumulated, one, scale)
        left.append(((features - accumulated) ** 2).sum() / (features**2).sum())
    assert np.abs(np.array(found) - left).max() < 1e-3
    section.get_by_role("slider", name="Scales").fill("2")
    section.get_by_text("2 of 7 scales").wait_for()
    section.locator(".tokens button").nth(20).focus()
    section.get_by_text(f"Code {shown[20]}").wait_for()


def test_what_is_not_a_picture_is_told(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    section = see(page, "pyramid")
    section.locator("input[type=file]").set_input_files(str(tmp_path / "notes.txt"))
    section.get_by_text("notes.txt cannot be read as a picture").wait_for()


def test_in_painting_leaves_kept_pixels_alone(page: Any) -> None:
    section = see(page, "edit")
    done = section.get_by_text(re.compile(r"pixels drawn. Of the \d+ others, 0 changed"))
    done.wait_for()
    assert "576 pixels drawn" in done.inner_text()
    canvas = section.get_by_role("img", name="The picture and the hole that is painted")
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 12, box["y"] + 12)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + 12)
    page.mouse.up()
    section.get_by_text(re.compile(r"(?!576)\d+ pixels drawn")).wait_for()
    rgba, hole = still(), np.zeros((64, 64), np.uint8)
    hole[10:30, 5:50] = 1
    frames = page.evaluate(
        """async ([rgba, hole]) => {
            const bytes = Uint8ClampedArray.from(rgba), frames = []
            const given = {rgba: bytes, hole: Uint8Array.from(hole), label: 3, seed: 1, settings: {}}
            await lab.engine.ask("edit", given, {tell: told => frames.push(Array.from(told.frame))})
            return frames
        }""",
        [rgba.ravel().tolist(), hole.ravel().tolist()],
    )
    assert len(frames) == 7
    for frame in frames:
        drawn = np.array(frame).reshape(64, 64, 4)
        assert (drawn[hole == 0] == rgba[hole == 0]).all()
    assert (drawn[hole == 1] != rgba[hole == 1]).any()


def test_out_painting_and_another_class(page: Any) -> None:
    section = see(page, "edit")
    section.get_by_role("radio", name="Out-paint").check()
    section.get_by_text("2496 pixels drawn. Of the 1600 others, 0 changed.").wait_for()
    section.get_by_role("radio", name="Keep coarse scales, change the class").check()
    section.get_by_text("3 coarse scales are the picture's; the finer ones are drawn as maze.").wait_for()


def test_an_edit_that_keeps_every_scale_is_the_reconstruction(page: Any) -> None:
    rgba = still()
    apart = page.evaluate(
        """async rgba => {
            const bytes = Uint8ClampedArray.from(rgba), hole = new Uint8Array(4096).fill(1)
            const {frames, tokens} = await lab.engine.ask("tokenise", {rgba: bytes})
            const given = {rgba: bytes, hole, label: 0, seed: 0, settings: {}, keepScales: 7}
            let last
            const edited = await lab.engine.ask("edit", given, {tell: told => last = told.frame})
            const apart = Math.max(...last.map((value, at) => Math.abs(value - frames[6][at])))
            return [JSON.stringify(tokens) === JSON.stringify(edited.tokens), apart]
        }""",
        rgba.ravel().tolist(),
    )
    assert apart == [True, 0]


def test_two_orders_are_played_against_one_clock(page: Any) -> None:
    section = see(page, "order")
    section.get_by_text("Next scale is done after 7 passes, raster order after 64.").wait_for()
    section.get_by_role("radio", name="310 million parameters, measured").check()
    section.get_by_text("in 10 passes and").wait_for()
    section.get_by_role("slider", name="Move through time").fill("500")
    counts = section.locator("dd").all_inner_texts()
    assert counts[0] == "7" and 0 < int(counts[3]) < 64 and counts[1] == "155"


def test_the_mask_follows_its_dial_and_attention_is_shown(page: Any) -> None:
    section = see(page, "mask")
    section.get_by_text(re.compile(r"gives \d+ % of its attention to its own scale")).wait_for()
    section.get_by_label("Schedule").select_option("double")
    section.get_by_text("may see 85 of 85 tokens").wait_for()
    assert section.locator("dd").all_inner_texts() == ["4", "85", "5,797", "80 %"]
    section.get_by_role("slider", name="Token").fill("2")
    section.get_by_text("may see 5 of 85 tokens").wait_for()
    section.get_by_role("slider", name="Side of the last map").fill("16")
    assert section.get_by_label("Schedule").input_value() == "dial"
    sums = page.evaluate(
        """async () => {
            const given = {model: "demo", label: 1, seed: 0, settings: {}, every: 1000}
            const {tokens} = await lab.engine.ask("generate", given)
            const {attention} = await lab.engine.ask("follow", {tokens, label: 1, attention: true})
            return attention.map(({data, dims}) => [dims.slice(2), data.slice(0, dims[3]).reduce((a, b) => a + b)])
        }"""
    )
    assert [sides for sides, _ in sums[:3]] == [[1, 1], [4, 5], [9, 14]]
    assert all(abs(total - 1) < 1e-4 for _, total in sums)


def test_the_loss_of_known_tokens_is_pythons_and_the_game_is_played(page: Any) -> None:
    section = see(page, "training")
    section.get_by_text(re.compile("Four maps of 3 . 3 tokens")).wait_for()
    section.get_by_role("button", name="Option 2").click()
    section.get_by_text(re.compile(r"You: [01] of 1\.")).wait_for()
    assert section.get_by_text(re.compile("the picture's: .* nats a token")).count() == 1
    found = page.evaluate(
        """async () => {
            const given = {model: "demo", label: 1, seed: 0, settings: {}, every: 1000}
            const {tokens} = await lab.engine.ask("generate", given)
            return [tokens, (await lab.engine.ask("follow", {tokens, label: 1})).nats]
        }"""
    )
    model = sampler("demo")
    about, cache, accumulated = model.about, np.zeros((1, *model.about["cache"]), np.float32), 0
    latents = np.zeros((1, 1, 32), np.float32)
    for part, tokens in enumerate(np.array(map_)[None] for map_ in found[0][:4]):
        logits, cache, *_ = model.run("transformer", classes=np.array([1], np.int32), latents=latents, cache=cache)
        shifted = logits[0] - logits[0].max(axis=-1, keepdims=True)
        nats = np.log(np.exp(shifted).sum(axis=-1)) - np.take_along_axis(shifted, tokens.T, axis=-1)[:, 0]
        assert np.abs(nats - found[1][part]).max() < 1e-3
        accumulated = model.add(np.zeros((1, 64, 32), np.float32) + accumulated, tokens, part)
        latents = model.tables[f"reduce.{part + 1}"] @ accumulated
    assert about["parts"] == [len(part) for part in found[1]]


def test_the_dials_of_a_generation(page: Any) -> None:
    section = see(page, "generate")
    section.get_by_text(re.compile(r"coinrun, seed 3: scale 7 of 7")).wait_for()
    before = section.locator(".tokens button").evaluate_all("cells => cells.map(c => c.ariaLabel)")
    section.get_by_role("slider", name="Guidance").fill("0")
    section.get_by_text("Framed: 0 of 155 tokens").wait_for()
    after = section.locator(".tokens button").evaluate_all("cells => cells.map(c => c.ariaLabel)")
    assert before[0] == after[0] and before != after, "guidance begins at the second scale"
    section.locator(".tokens button").nth(60).click()
    section.get_by_text(re.compile("Scale 6 . 6, row 1, column 6")).wait_for()
    assert section.locator(".chart svg [aria-label=bar] rect").count() == 12


def test_charts_answer(page: Any) -> None:
    section = see(page, "scaling")
    assert section.locator(".chart svg").count() == 2
    section.get_by_role("button", name="Uncover").click()
    section.get_by_text(re.compile(r"Measured 4\.261\. The line of 4 smaller models says 4\.286 \(0\.6 %\)")).wait_for()
    section = see(page, "speed")
    section.get_by_role("radio", name="ours: games, one image").check()
    section.get_by_text("Next scale takes a fifth of its time.").wait_for()
    section.get_by_role("slider", name="Side n of the grid").fill("8")
    assert section.locator("dd").first.inner_text().split() == ["6", ":", "64"]


def test_orders_of_other_families_and_sizes(page: Any) -> None:
    section = see(page, "connections")
    section.get_by_role("radio", name="masked").check()
    section.get_by_role("slider", name="Step").fill("8")
    section.get_by_text("Step 8 of 8: 64 places decided").wait_for()
    section = see(page, "sheet")
    section.get_by_label("Sides of the scales").fill("1 2 4 8")
    assert section.locator("dd").all_inner_texts()[:4] == ["85", "4", "64", "80 %"]
    section.get_by_label("Sides of the scales").fill("1 2 x")
    section.get_by_text("Sides are whole numbers").wait_for()


def test_ten_chapters_each_with_a_question(page: Any) -> None:
    assert page.locator(".chapter").evaluate_all("all => all.map(one => one.id)") == list(CHAPTERS)
    for chapter in CHAPTERS:
        question = see(page, chapter).locator("details.question")
        assert question.count() == 1 and not question.locator("p").is_visible()
        question.locator("summary").focus()
        page.keyboard.press("Enter")
        assert question.locator("p").is_visible()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in web/)")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, theme: str) -> None:
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (one["id"], one["help"], [node["html"][:160] for node in one["nodes"][:3]])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert not serious, json.dumps(serious, indent=1)


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_no_errors_and_nothing_leaves_the_machine(page: Any) -> None:
    """After all of the above."""
    assert page.said == []
    assert len(page.asked) > 10
    assert {url for url in page.asked if not url.startswith((page.url_of_site, "blob:", "data:"))} == set()
