"""The studio with a model of prompts, without a browser."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from nextscale.editing.config import EditConfig
from nextscale.studio.app import build_studio
from nextscale.studio.components import wanted_field
from nextscale.studio.desk import SETTINGS_KEY, Desk
from nextscale.studio.generate import generate_live
from nextscale.studio.retouch import WHOLE, PaintedImage, edit_live
from toys import TEXT, make_pipeline, toy_image

LONG = "a/b\x00 \u05dc\u05d1 " + "word " * 300


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    pipeline = make_pipeline(text=TEXT)
    pipeline.config = replace(pipeline.config, prompts=("a red square", "a blue one"))
    return Desk(pipeline, "toy", folder=tmp_path, previews=math.inf)


@pytest.mark.parametrize("prompt", ["a red heart", "", LONG])
def test_prompts_are_drawn_and_edited(desk: Desk, prompt: str) -> None:
    *_, last = generate_live(desk, prompt, 1, 3)
    assert last.files is not None
    path, caption = last.files[0]
    image = Image.open(path)
    assert image.tobytes() == desk.pipeline.generate([prompt], seeds=[3]).images[0].tobytes()
    assert json.loads(image.info[SETTINGS_KEY])["prompt"] == (prompt or None) and len(caption) < 90
    painted = PaintedImage(toy_image(0, 0), np.zeros((16, 16), np.float32))
    *_, last = edit_live(desk, painted, WHOLE, prompt, 1, 3, (), EditConfig(keep_scales=1))
    assert last.files is not None and Path(last.files[0][0]).is_file()


def test_the_page_has_a_field_for_prompts(desk: Desk) -> None:
    try:
        build_studio(desk)
        with gr.Blocks():
            field, edit = wanted_field(desk), wanted_field(desk, also=["auto"])
        assert isinstance(field, gr.Textbox) and (field.value, edit.value) == ("a red square", "")
    finally:
        desk.close()
    other = Desk(make_pipeline(), "toy", rival=make_pipeline(text=TEXT))
    try:
        build_studio(other)
        with gr.Blocks():
            field = wanted_field(other, also=["auto"])
        assert isinstance(field, gr.Dropdown) and field.value == "auto"
    finally:
        other.close()
