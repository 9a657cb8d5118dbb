"""The commands, run as a user runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from nextscale.cli import main
from nextscale.pipeline import VARPipeline
from toys import CLASS_NAMES, make_baseline, make_pipeline, make_tokenizer

Make = Callable[..., Path]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_generate_writes_images_grid_and_manifest(model_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "a" / "b"
    arguments = ["generate", "--model", str(model_folder), "--classes", "red,0", "--count", "5", "--seed", "7"]
    assert main([*arguments, "--out", str(out), "--json", str(tmp_path / "r.json")]) == 0
    assert sorted(files(out)) == [*(f"{i:06d}.png" for i in range(5)), "grid.png", "manifest.jsonl"]
    entries = manifest(out)
    assert [entry["class"] for entry in entries] == ["red", "blue", "red", "blue", "red"]
    assert [entry["seed"] for entry in entries] == [7, 8, 9, 10, 11]
    assert entries[0]["settings"] == {
        "guidance": 2.0, "guided_scales": 0, "top_k": 8, "top_p": 0.9, "temperature": 1.0, "temperatures": [],
        "spatial_guidance": [], "refine_steps": 1, "smooth": False, "steps": 0, "truncation": 1.0,
        "precision": "fp32",
    }  # fmt: skip
    for entry in entries:
        assert entry["sha256"] == sha256((out / entry["file"]).read_bytes()).hexdigest()
        assert entry["model"] == str(model_folder)
    assert json.loads((tmp_path / "r.json").read_text())["images"] == entries
    assert str(out / "grid.png") in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "again"), "--batch-size", "2"]) == 0
    assert files(tmp_path / "again") == files(out)


def test_generate_takes_settings_per_scale(model_folder: Path, tmp_path: Path) -> None:
    arguments = ["generate", "--model", str(model_folder), "--classes", "red", "--count", "2"]
    flags = ["--guided-scales", "2", "--temperatures", "3,1,0.5", "--spatial-guidance", "0.5"]
    assert main([*arguments, *flags, "--precision", "fp32", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    settings = manifest(tmp_path / "out")[0]["settings"]
    assert (settings["guided_scales"], settings["temperatures"]) == (2, [3.0, 1.0, 0.5])
    assert settings["spatial_guidance"] == [0.5]
    pipeline = VARPipeline.from_pretrained(model_folder, device="cpu", dtype="fp32")
    own: dict = {"guided_scales": 2, "temperatures": [3, 1, 0.5], "spatial_guidance": 0.5}
    made = pipeline.generate(["red"], seeds=[0, 1], **own).images
    for number, image in enumerate(made):
        with Image.open(tmp_path / "out" / f"{number:06d}.png") as stored:
            assert stored.tobytes() == image.tobytes()


def test_the_last_map_is_drawn_in_passes_by_flag_or_by_the_default_of_the_model(tmp_path: Path, capsys) -> None:
    pipeline = make_pipeline(refinable=True)
    pipeline.save_pretrained(tmp_path / "plain")
    words = ["convert", str(tmp_path / "plain"), "--refine-steps", "3", "--out", str(tmp_path / "refined")]
    assert main(words) == 0
    expected = [image.tobytes() for image in pipeline.generate(["red"], seeds=[0, 1], refine_steps=3).images]
    for model, flags in (("plain", ["--refine-steps", "3"]), ("refined", [])):
        arguments = ["generate", "--model", str(tmp_path / model), "--classes", "red", "--count", "2", *flags]
        assert main([*arguments, "--precision", "fp32", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
        assert manifest(tmp_path / "out")[0]["settings"]["refine_steps"] == 3
        for number, one in enumerate(expected):
            with Image.open(tmp_path / "out" / f"{number:06d}.png") as stored:
                assert stored.tobytes() == one
    for model, steps in (("plain", 4), ("refined", 6)):
        assert main(["info", str(tmp_path / model), "--json", str(tmp_path / "info.json")]) == 0
        assert json.loads((tmp_path / "info.json").read_text())["steps"] == steps


def test_generate_keeps_the_best_candidates(model_folder: Path, tmp_path: Path) -> None:
    arguments = ["generate", "--model", str(model_folder), "--classes", "red,0", "--count", "2", "--seed", "3"]
    assert main([*arguments, "--candidates", "4", "--keep", "2", "--out", str(tmp_path / "best")]) == 0
    entries = manifest(tmp_path / "best")
    assert [entry["class"] for entry in entries] == ["red", "red", "blue", "blue"]
    assert {12, 13, 14, 15} > {entry["seed"] for entry in entries[:2]}
    assert {16, 17, 18, 19} > {entry["seed"] for entry in entries[2:]}
    assert entries[0]["score"] >= entries[1]["score"] and entries[2]["score"] >= entries[3]["score"]
    assert entries[0]["settings"]["candidates"] == 4 and entries[0]["settings"]["judge"] == "likelihood"
    alone = ["generate", "--model", str(model_folder), "--classes", "red", "--count", "1"]
    assert main([*alone, "--seed", str(entries[0]["seed"]), "--out", str(tmp_path / "alone")]) == 0
    assert manifest(tmp_path / "alone")[0]["sha256"] == entries[0]["sha256"]


def test_bench_times_every_stage(model_folder: Path, tmp_path: Path, capsys) -> None:
    plot, results = tmp_path / "speed.png", tmp_path / "speed.json"
    arguments = ["bench", "--model", str(model_folder), "--batch-sizes", "1,3", "--rounds", "1"]
    assert main([*arguments, "--plot", str(plot), "--json", str(results)]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("batch 3", "transformer 4x4", "decoder", "images/s", "peak memory"))
    written = json.loads(results.read_text())
    assert [speed["times"]["batch"] for speed in written["batch_sizes"]] == [1, 3]
    assert written["precision"] == "fp32"
    with Image.open(plot) as picture:
        assert picture.width > 300


def test_generate_into_a_folder_in_use_leaves_other_files(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for _ in range(2):
        assert main(["generate", "--model", str(model_folder), "--count", "1", "--out", str(tmp_path / "out")]) == 0
    assert sorted(files(tmp_path / "out")) == ["000000.png", "grid.png", "manifest.jsonl", "thesis.txt"]


def test_all_classes_and_none(model_folder: Path, tmp_path: Path) -> None:
    common = ["generate", "--model", str(model_folder), "--count", "4", "--guidance", "0"]
    assert main([*common, "--out", str(tmp_path / "all")]) == 0
    assert [entry["class"] for entry in manifest(tmp_path / "all")] == [*CLASS_NAMES, "blue"]
    assert main([*common, "--classes", "none", "--out", str(tmp_path / "none")]) == 0
    assert [entry["class"] for entry in manifest(tmp_path / "none")] == [None] * 4


def test_settings_from_a_file_and_flags_over_it(model_folder: Path, tmp_path: Path) -> None:
    settings = {"model": str(model_folder), "count": 3, "top-k": 2, "guidance": 1, "out": str(tmp_path / "out")}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings))
    assert main(["generate", "--config", str(tmp_path / "s.yaml"), "--count", "2"]) == 0
    entries = manifest(tmp_path / "out")
    assert len(entries) == 2
    assert entries[0]["settings"]["top_k"] == 2
    assert entries[0]["settings"]["guidance"] == 1.0


@pytest.mark.parametrize("scales", [False, True])
def test_reconstruct(model_folder: Path, image_folder: Make, tmp_path: Path, scales: bool, capsys) -> None:
    folder, out = image_folder(per_class=2, side=20), tmp_path / "out"
    single = folder / "red" / "000.png"
    arguments = ["reconstruct", str(folder / "blue"), str(single), "--model", str(model_folder), "--out", str(out)]
    assert main([*arguments, *(["--scales"] if scales else [])]) == 0
    entries = manifest(out)
    assert [Path(entry["source"]).parent.name for entry in entries] == ["blue", "blue", "red"]
    assert all(len(entry["psnr_after_scale"]) == 4 for entry in entries)
    width = 5 * 16 + 4 * 2 if scales else 16
    assert Image.open(out / "000002.png").size == (width, 16)
    assert "mean PSNR" in capsys.readouterr().out


def test_info(model_folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["info", str(model_folder), "--json", str(tmp_path / "i.json")]) == 0
    values = json.loads((tmp_path / "i.json").read_text())
    assert values["scales"] == ["1x1", "2x2", "3x3", "4x4"]
    assert values["classes"] == list(CLASS_NAMES)
    assert values["codebook"] == "32 x 8"
    text = capsys.readouterr().out
    assert values["tokenizer_fingerprint"][:20] in text.replace("\n", "")


TOKENIZER = [
    "train", "tokenizer", "--preset", "tiny-16", "--batch-size", "4", "--log-every", "2",
    "--heldout-images", "4", "--precision", "fp32",
]  # fmt: skip
VAR = [
    "train", "var", "--preset", "tiny", "--heads", "1", "--steps", "4", "--batch-size", "4", "--log-every", "2",
    "--precision", "fp32",
]  # fmt: skip


def test_both_stages_tokenize_and_generate(image_folder: Make, tmp_path: Path, capsys) -> None:
    data, one, two, tokens = str(image_folder()), tmp_path / "one", tmp_path / "two", tmp_path / "tokens"
    settings = ["--steps", "4", "--scales", "1,2,4", "--learning-rate", "1e-3"]
    assert main([*TOKENIZER, "--data", data, "--out", str(one), *settings]) == 0
    recorded = json.loads((one / "config.json").read_text())
    assert recorded["model"]["scales"] == [[1, 1], [2, 2], [4, 4]]
    assert recorded["optimiser"]["learning_rate"] == 1e-3
    assert recorded["optimiser"]["ema"] == 0.999, "what is not said keeps stage 1's defaults"
    arguments = ["tokenize", "--tokenizer", str(one), "--data", data, "--out", str(tokens), "--views", "2"]
    assert main([*arguments, "--json", str(tmp_path / "t.json")]) == 0
    assert json.loads((tmp_path / "t.json").read_text())["images"] == 24
    assert main([*arguments, "--resume"]) == 0
    assert main([*VAR, "--data", str(tokens), "--tokenizer", str(one), "--out", str(two)]) == 0
    assert (
        main(["generate", "--model", str(two), "--classes", "green", "--count", "2", "--out", str(tmp_path / "g")]) == 0
    )
    assert [entry["class"] for entry in manifest(tmp_path / "g")] == ["green", "green"]
    capsys.readouterr()
    # A run's own config reproduces it.
    assert main(["train", "var", "--config", str(two / "config.json"), "--out", str(tmp_path / "again")]) == 0
    assert files(two / "model") == files(tmp_path / "again" / "model")
    assert main([*VAR, "--data", str(tokens), "--tokenizer", str(one), "--out", str(two), "--resume"]) == 0
    assert main([*VAR, "--data", str(tokens), "--tokenizer", str(one), "--out", str(two)]) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err


def test_help_names_every_setting_with_its_default(capsys) -> None:
    assert main(["train", "tokenizer", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--codebook-size", "--perceptual-backbone", "--learning-rate", "--scales", "--preset", "--resume"):
        assert flag in text
    assert main(["generate", "--help"]) == 0
    text = capsys.readouterr().out
    assert "[default: 16]" in text
    assert "[default: None]" not in text
    assert main(["train", "var", "--help"]) == 0
    assert "Blocks; width is 64 x depth" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "nextscale", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_entry_point_and_its_status(model_folder: Path, tmp_path: Path) -> None:
    done = run("generate", "--model", str(model_folder), "--count", "1", "--out", str(tmp_path / "o"))
    assert done.returncode == 0, done.stderr
    wrong = run("generate", "--model", str(model_folder), "--count", "0", "--out", str(tmp_path / "p"))
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_stopping_a_run_saves_it_and_resume_finishes_it(image_folder: Make, tmp_path: Path) -> None:
    data, out = str(image_folder()), tmp_path / "run"
    arguments = [*TOKENIZER, "--data", data, "--out", str(out), "--steps", "400"]
    process = subprocess.Popen([sys.executable, "-m", "nextscale", *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "tokenizer 4/400" in line:
            process.terminate()
            break
    assert process.wait(timeout=60) == 1
    assert "stopped" in process.stderr.read()
    saved = list((out / "checkpoints").iterdir())
    assert len(saved) == 1
    stopped_at = int(saved[0].stem.removeprefix("step-"))
    assert 4 <= stopped_at < 400
    short = [*arguments, "--resume"]
    done = subprocess.Popen([sys.executable, "-m", "nextscale", *short], stderr=subprocess.PIPE, text=True)
    assert done.stderr is not None
    first = next(line for line in done.stderr if "resumed" in line)
    assert f"resumed at step {stopped_at}" in first
    done.kill()
    done.wait()


def test_importing_and_help_are_light() -> None:
    """Nothing heavy is imported before it is needed: not torch for help, not datasets for the package."""
    code = "import sys, nextscale; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = (
        "import sys; from nextscale.cli import main; main(['--help']); "
        "assert not {'torch', 'datasets', 'torchvision', 'gradio'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


def test_convert_writes_generation_defaults(tmp_path: Path, capsys) -> None:
    made = make_baseline("dit")
    made.save_pretrained(tmp_path / "dit")
    command = ["convert", str(tmp_path / "dit"), "--steps", "3", "--guidance", "0", "--out", str(tmp_path / "quick")]
    assert main(command) == 0
    before, after = (VARPipeline.from_pretrained(tmp_path / name) for name in ("dit", "quick"))
    assert after.config == replace(made.config, steps=3, guidance=0.0)
    wanted = before.generate("red", seeds=[1], steps=3, guidance=0.0).images[0]
    assert np.array_equal(after.generate("red", seeds=[1]).images[0], wanted)
    assert main(["info", str(tmp_path / "quick"), "--json", str(tmp_path / "info.json")]) == 0
    assert json.loads((tmp_path / "info.json").read_text())["steps"] == 3


def test_spatial_guidance_may_be_a_default_of_the_model(model_folder: Path, tmp_path: Path) -> None:
    flags = ["--spatial-guidance", "2", "--guidance", "1"]
    assert main(["convert", str(model_folder), *flags, "--out", str(tmp_path / "guided")]) == 0
    before, after = (VARPipeline.from_pretrained(folder) for folder in (model_folder, tmp_path / "guided"))
    wanted = before.generate("red", seeds=[1], spatial_guidance=2, guidance=1.0).images[0]
    assert np.array_equal(after.generate("red", seeds=[1]).images[0], wanted)
    off = [
        pipeline.generate("red", seeds=[1], spatial_guidance=0, guidance=1.0).images[0] for pipeline in (before, after)
    ]
    assert np.array_equal(*off) and not np.array_equal(off[0], wanted)
    assert main(["info", str(tmp_path / "guided"), "--json", str(tmp_path / "info.json")]) == 0
    assert json.loads((tmp_path / "info.json").read_text())["spatial_guidance"] == [2.0]


def test_convert_goes_both_ways(tmp_path: Path, capsys) -> None:
    pipeline = make_pipeline()
    pipeline.tokenizer = make_tokenizer(patch=1)
    pipeline.save_pretrained(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), "--to", "official", "--out", str(tmp_path / "theirs")]) == 0
    assert sorted(files(tmp_path / "theirs")) == ["vae_ch16v32z8.pth", "var_d2.pth"]
    said = capsys.readouterr()
    assert "var_d2.pth" in said.out
    assert said.err == f"next: nextscale generate --model {tmp_path / 'theirs' / 'var_d2.pth'}\n"
    result = tmp_path / "r.json"
    back = ["convert", str(tmp_path / "theirs" / "var_d2.pth"), "--out", str(tmp_path / "back"), "--json", str(result)]
    assert main(back) == 0
    before, after = files(tmp_path / "ours"), files(tmp_path / "back")
    assert json.loads(result.read_text())["files"] == {name: len(data) for name, data in after.items()}
    weights = [name for name in before if name.endswith(".safetensors")]
    assert len(weights) == 2
    assert all(before[name] == after[name] for name in weights)
    tokenizer = ["convert", str(tmp_path / "theirs" / "vae_ch16v32z8.pth"), "--out", str(tmp_path / "t")]
    assert main([*tokenizer, "--export", "bf16"]) == 0
    assert sorted(files(tmp_path / "t")) == ["config.json", "tokenizer/config.json", "tokenizer/model.safetensors"]
    assert len(files(tmp_path / "t")["tokenizer/model.safetensors"]) < len(before["tokenizer/model.safetensors"])
