"""The comparison on Fashion-MNIST, at toy size: its script says what is run, and this process runs it."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nextscale.cli import main
from nextscale.evaluation.features import load_features
from nextscale.sampling.rejection import ClassifierJudge, load_judge

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist"
SIZES = {
    "TOKENIZER_IMAGES": "8", "CODES": "16", "PERCEPTUAL": "0", "IMAGES": "16", "DEPTH": "1", "BATCH": "4",
    "GUIDANCES": "0,1", "TUNING": "6", "COUNT": "6", "CLASSIFIER_STEPS": "1", "COMPILE": "--no-compile",
}  # fmt: skip
RECORD = """#!/bin/sh
printf "'%s' " "$(basename "$0")" "$@" >> "$RECORD"
echo >> "$RECORD"
"""


def commands(folder: Path, *arguments: str) -> list[list[str]]:
    """What the script runs now, instead of running it."""
    programs, record = folder / "programs", folder / "record.txt"
    programs.mkdir(exist_ok=True)
    for name in ("nextscale", "python"):
        (programs / name).write_text(RECORD)
        (programs / name).chmod(0o755)
    record.write_text("")
    found = {"PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(record)}
    script = ["sh", str(EXAMPLE / "compare.sh"), *arguments]
    subprocess.run(script, env=os.environ | SIZES | found, check=True, capture_output=True, timeout=60)
    return [shlex.split(line) for line in record.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_both_families_are_trained_alike_and_compared(
    image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "heldout"):
        image_folder(f"data/{split}", side=32)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs = tmp_path / "runs"
    asked = (str(tmp_path / "data"), str(runs), "--device", "cpu")
    wanted = commands(tmp_path, *asked)
    assert [program for program, *_ in wanted] == ["python", *["nextscale"] * 11]
    assert all(command[-2:] == ["--device", "cpu"] for command in wanted)
    for program, *arguments in wanted:
        if program == "python":
            runpy.run_path(arguments[0])["main"](arguments[1:])
        else:
            assert main(arguments) == 0, arguments
    report = json.loads((runs / "compare" / "report.json").read_text())
    var, raster = report["models"]
    assert (var["kind"], raster["kind"]) == ("var", "raster")
    assert var["images_seen"] == raster["images_seen"] == 16
    assert var["parameters"] == pytest.approx(raster["parameters"], rel=0.05)
    assert (report["sets"], report["count"], report["features"]["name"]) == (3, 6, "resnet18")
    again = commands(tmp_path, *asked)
    assert len(again) == 9
    assert again == [command for command in wanted if command[0] == "nextscale" and command[1] != "evaluate"]


def test_the_classifier_gives_features_and_judges(image_folder: Callable[..., Path], tmp_path: Path, capsys) -> None:
    data, out = str(image_folder(side=32)), tmp_path / "own" / "classifier.pth"
    train = runpy.run_path(str(EXAMPLE / "classifier.py"))["main"]
    train(["--data", data, "--heldout", data, "--steps", "1", "--batch", "4", "--out", str(out)])
    assert "of 24 held-out images are told right" in capsys.readouterr().out
    pooled, logits = load_features("resnet18", out).outputs(torch.zeros(1, 3, 32, 32))
    assert pooled.shape == (1, 512) and logits.shape == (1, 3)
    assert isinstance(load_judge(str(out), classes=3), ClassifierJudge)
    flat = str(image_folder("flat", flat=True, side=32))
    with pytest.raises(SystemExit, match="2"):
        train(["--data", flat, "--heldout", flat, "--steps", "1", "--out", str(out)])
    assert capsys.readouterr().err == f"error: {flat}: some images have no class\n"
