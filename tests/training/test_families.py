"""Every kind of model trains, resumes exactly, and generates, through the one loop and the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nextscale import VARPipeline
from nextscale.checkpoint import ModelConfig, save_model
from nextscale.cli import main
from nextscale.families import family_of
from toys import FAMILY_SCALES, make_pipeline, make_tokenizer
from training.small_runs import weights

Make = Callable[..., Path]
EVERYTHING = (
    "--attention", "scale", "--scale-weights", "4,2,1,1", "--self-correct", "0.5", "--masked-last", "0.5",
)  # fmt: skip


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Callable[[str], str]:
    def make(kind: str) -> str:
        folder, made = tmp_path / f"{kind}-tokenizer", make_tokenizer(scales=FAMILY_SCALES[kind])
        save_model(folder, ModelConfig(kind="tokenizer"), tokenizer=made)
        return str(folder)

    return make


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, ()) for kind in FAMILY_SCALES] + [("var", EVERYTHING)],
)
def test_a_kind_trains_resumes_and_generates(
    kind: str,
    options: tuple[str, ...],
    tokenizer_folder: Callable[[str], str],
    image_folder: Make,
    tmp_path: Path,
) -> None:
    data, tokenizer = str(image_folder()), tokenizer_folder(kind)
    common = [
        "train",
        kind,
        "--preset",
        "tiny",
        "--depth",
        "1",
        "--tokenizer",
        tokenizer,
        "--data",
        data,
        "--heldout",
        data,
        "--batch-size",
        "4",
        "--learning-rate",
        "0.1",
        "--checkpoint-every",
        "2",
        "--sample-every",
        "4",
        "--top-k",
        "0",
        "--top-p",
        "0",
        *options,
    ]
    assert main([*common, "--steps", "4", "--out", str(tmp_path / "whole")]) == 0
    assert main([*common, "--steps", "4", "--out", str(tmp_path / "parts")]) == 0
    (tmp_path / "parts" / "checkpoints" / "step-00000004.pt").unlink()
    assert main([*common, "--steps", "4", "--out", str(tmp_path / "parts"), "--resume"]) == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")

    pipeline = VARPipeline.from_pretrained(tmp_path / "whole", dtype="fp32")
    assert family_of(pipeline.transformer.config).kind == pipeline.config.kind == kind
    assert pipeline.class_names == ("blue", "green", "red")
    assert pipeline.transformer.config.sees_coarser == (not options)
    assert getattr(pipeline.transformer.config, "refinable", False) == bool(options)
    settings = {"steps": 5} if kind == "dit" else {}
    together = pipeline.generate(["red", "blue"], seeds=[0, 1], **settings)
    assert [image.size for image in together.images] == [(16, 16)] * 2
    alone = pipeline.generate(["red", "blue"], seeds=[0, 1], batch_size=1, **settings)
    if kind != "dit":  # which draws no tokens
        assert torch.equal(together.tokens.packed, alone.tokens.packed)
    for one, other in zip(together.images, alone.images, strict=True):  # products of other shapes round differently
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 2
    steps = ["--steps", "5"] if kind == "dit" else []
    assert (
        main(["generate", "--model", str(tmp_path / "whole"), "--count", "2", *steps, "--out", str(tmp_path / "g")])
        == 0
    )


def test_editing_and_starting_across_kinds_are_refused(
    tokenizer_folder: Callable[[str], str], image_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = str(image_folder())
    make_pipeline().save_pretrained(tmp_path / "var")
    tokenizer = tokenizer_folder("raster")
    common = ["train", "raster", "--preset", "tiny", "--tokenizer", tokenizer, "--data", data, "--steps", "1"]
    assert main([*common, "--init-from", str(tmp_path / "var"), "--out", str(tmp_path / "x")]) == 2
    assert "is next-scale prediction (VAR), not raster-order AR" in capsys.readouterr().err
    assert main([*common, "--batch-size", "2", "--out", str(tmp_path / "raster")]) == 0
    pipeline = VARPipeline.from_pretrained(tmp_path / "raster")
    from toys import toy_image

    with pytest.raises(ValueError, match="this model is raster-order AR"):
        pipeline.inpaint(toy_image(0, 0), [(0, 0, 4, 4)])
    assert pipeline.config.kind == "raster"
    masked = ["train", "maskgit", "--preset", "tiny", "--tokenizer", tokenizer, "--data", data]
    assert main([*masked, "--scale-weights", "1", "--out", str(tmp_path / "z")]) == 2
    assert "scale_weights are not for" in capsys.readouterr().err
    assert main([*masked, "--self-correct", "0.1", "--out", str(tmp_path / "z")]) == 2
    assert "self_correct is not for" in capsys.readouterr().err
    assert main([*masked, "--masked-last", "0.1", "--out", str(tmp_path / "z")]) == 2
    assert "masked_last is not for masked prediction" in capsys.readouterr().err
    var = ["train", "raster", "--preset", "tiny", "--tokenizer", tokenizer_folder("var"), "--data", data]
    assert main([*var, "--steps", "1", "--out", str(tmp_path / "y")]) == 2
    assert "raster order reads a single token map, the tokenizer has 4 scales" in capsys.readouterr().err
