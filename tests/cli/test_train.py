"""Training from the command line: what is refused before anything is written, what continues, what is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nextscale.cli import main
from nextscale.config import TOP_SEED, read_json
from toys import write_parquet
from training.small_runs import interrupt_at, weights

Make = Callable[..., Path]
SMALL = ["--batch-size", "4", "--log-every", "1", "--checkpoint-every", "2"]
TOKENIZER = ["train", "tokenizer", "--preset", "tiny-16", "--heldout-images", "4", *SMALL]
VAR = ["train", "var", "--preset", "tiny", "--heads", "1", "--learning-rate", "1e-2", *SMALL]


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line of a command that is refused."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def stopped(arguments: list[str], step: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """Run a training that is stopped after a step; what it says."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert main(arguments) == 1
    return capsys.readouterr().err


@pytest.fixture
def var(model_folder: Path, image_folder: Make, tmp_path: Path) -> list[str]:
    data, run = image_folder(), tmp_path / "run"
    return [*VAR, "--steps", "4", "--data", str(data), "--tokenizer", str(model_folder), "--out", str(run)]


def test_a_run_continues_with_its_own_settings(
    var: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main([*var[:-1], str(whole)]) == 0
    assert "without --heldout, 1 of the images are set aside to measure on" in capsys.readouterr().err
    said = stopped(var, 1, monkeypatch, capsys).splitlines()
    assert said[-2:] == [f"continue with: nextscale train var --resume --out {run}", "stopped"]
    assert main(["train", "var", "--resume", "--out", str(run)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(run / "model")], "nothing is suggested for a run that has its settings"
    assert "resumed at step 1" in said.err
    assert said.err.splitlines()[-1] == f"next: nextscale generate --model {run}"
    assert weights(run) == weights(whole)
    recorded = [read_json(path / "config.json") for path in (run, whole)]
    assert recorded[0] | {"out": ""} == recorded[1] | {"out": ""}
    assert main(["train", "var", "--resume", str(run)]) == 0, "finished: nothing to do"
    assert main([*var, "--resume"]) == 0, "the whole command again does it as well"


def test_a_tokenizer_continues_too(image_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, run = image_folder(), tmp_path / "run"
    assert main([*TOKENIZER, "--steps", "4", "--data", str(data), str(run)]) == 0
    before = weights(run)
    (run / "checkpoints" / "step-00000004.pt").unlink()
    moved = shutil.move(data, tmp_path / "moved")
    assert "there is no such file or folder" in refused(["train", "tokenizer", str(run), "--resume"], capsys)
    assert main(["train", "tokenizer", str(run), "--resume", "--data", f"{moved}/"]) == 0
    assert weights(run) == before
    assert read_json(run / "config.json")["data"] == f"{moved}/"


def test_a_vit_tokenizer_serves_raster_order(image_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, coder, model = str(image_folder(side=32)), tmp_path / "coder", tmp_path / "model"
    vit = ["--preset", "vit-small-32", "--scales", "8", "--phi-map=-1", "--width", "16", "--depth", "1"]
    style = ["--adversarial", "0.1", "--adversarial-start", "0", "--discriminator", "stylegan2", "--r1-every", "2"]
    style += ["--discriminator-channels", "4"]
    tokenizer = [*TOKENIZER[:2], "--steps", "2", "--heldout-images", "4", *SMALL, "--data", data, "--out", str(coder)]
    assert main([*tokenizer, *vit, "--decoder-depth", "2", *style]) == 0
    stored = read_json(coder / "model" / "tokenizer" / "config.json")
    assert (stored["architecture"], stored["width"], stored["decoder_depth"], stored["phi_map"]) == ("vit", 16, 2, [-1])
    assert "r1" in (coder / "metrics.jsonl").read_text()
    raster = ["train", "raster", *VAR[2:], "--steps", "2", "--data", data, "--tokenizer", str(coder)]
    assert main([*raster, "--out", str(model)]) == 0
    assert main(["generate", "--model", str(model), "--count", "1", "--out", str(tmp_path / "images")]) == 0
    line = refused([*tokenizer[:-1], str(tmp_path / "other"), "--architecture", "vit", "--channels", "8"], capsys)
    assert "--channels is no setting of architecture vit" in line


def test_a_tokenizer_learns_from_disturbed_codes(image_folder: Make, tmp_path: Path) -> None:
    disturbed = ["--disturb", "0.5", "--disturb-codes", "8", "--disturb-tokens-end", "0.25", "--scale-dropout", "0.5"]
    paths = ["--data", str(image_folder()), "--out", str(tmp_path / "run")]
    assert main([*TOKENIZER, "--steps", "2", *disturbed, *paths]) == 0
    assert read_json(tmp_path / "run" / "config.json")["disturbance"] == {
        "disturb": 0.5, "disturb_tokens": 1.0, "disturb_tokens_end": 0.25, "disturb_codes": 8, "scale_dropout": 0.5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "5"], "cannot continue with another steps: it was 4, now 5"),
        (["--depth", "1"], "another depth: it was 2, now 1"),
        (["--preset", "small"], "another depth: it was 2, now 4"),
        (["--learning-rate", "2e-2"], "another learning_rate: it was 0.01, now 0.02"),
        (["--seed", "1"], "another seed: it was 0, now 1"),
        (["--out", "elsewhere"], "two run folders are given"),
        (["--data", "nowhere"], "there is no such file or folder"),
    ],
)
def test_what_may_not_change_is_refused(
    var: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
    flags: list[str], message: str,
) -> None:  # fmt: skip
    stopped(var, 2, monkeypatch, capsys)
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert message in refused(["train", "var", str(tmp_path / "run"), "--resume", *flags], capsys)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == kept


def test_what_may_change_does(
    var: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run, data = tmp_path / "whole", tmp_path / "run", var[var.index("--data") + 1]
    assert main([*var[:-1], str(whole)]) == 0
    stopped(var, 2, monkeypatch, capsys)
    changes = ["--sample-every", "3", "--precision", "auto", "--heldout", data, "--limit", "5", "--device", "auto"]
    assert main(["train", "var", str(run), "--resume", *changes]) == 0
    assert weights(run) == weights(whole)
    recorded = read_json(run / "config.json")
    assert (recorded["sample_every"], recorded["heldout"], recorded["limit"]) == (3, data, 5)
    assert recorded["heldout_share"] == 0.05, "what was set aside stays so"
    assert "is measured on other held-out images from here on" in capsys.readouterr().err


def test_the_wrong_command_names_the_right_one(
    var: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(var, 2, monkeypatch, capsys)
    run = tmp_path / "run"
    line = refused(["train", "tokenizer", "--resume", "--out", str(run)], capsys)
    assert line.endswith(f"is a run of train var; continue it with nextscale train var --resume --out {run}")
    line = refused(["train", "var", "--resume", "--out", str(tmp_path / "typo")], capsys)
    assert "typo: holds no run to continue, and to start one --data is missing" in line
    assert not (tmp_path / "typo").exists()


def test_an_interrupted_run_is_named_as_one(
    var: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(var, 2, monkeypatch, capsys)
    run = tmp_path / "run"
    for command in (["info", str(run)], ["generate", "--model", str(run), "--out", str(tmp_path / "g")]):
        assert refused(command, capsys).endswith(
            f"is a run that has exported no model yet; continue it with nextscale train var --resume --out {run}"
        )
    stopped(["train", "var", str(run), "--resume", "--sample-every", "3"], 4, monkeypatch, capsys)
    assert main(["generate", "--model", str(run), "--count", "1", "--out", str(tmp_path / "g")]) == 0
    assert f"{run}: its model is that of step 3 of 4; continue it with" in capsys.readouterr().err
    assert main(["info", str(run), "--json", str(tmp_path / "info.json")]) == 0
    assert read_json(tmp_path / "info.json")["trained_steps"] == 3
    assert main(["train", "var", str(run), "--resume"]) == 0
    capsys.readouterr()
    assert main(["info", str(run)]) == 0
    assert "continue it" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", [-1, TOP_SEED + 1, 2**64])
def test_seeds(var: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, seed: int) -> None:
    data, model, out = var[var.index("--data") + 1], var[var.index("--tokenizer") + 1], str(tmp_path / "out")
    common = ["--data", data, "--out", out, "--seed", str(seed)]
    for command in (
        TOKENIZER, [*VAR, "--tokenizer", model], ["tokenize", "--tokenizer", model],
        ["scaling", "run", "--tokenizer", model, "--heldout", data], ["evaluate", "generation", "--model", model],
    ):  # fmt: skip
        assert f"seed must be from 0 to {TOP_SEED}, got {seed}" in refused([*command, *common], capsys)
    image = str(next(Path(data).rglob("*.png")))
    for command in (["generate"], ["edit", "inpaint", image, "--boxes", "0,0,4,4"]):
        line = refused([*command, "--model", model, "--out", f"{out}.png", "--seed", str(seed)], capsys)
        assert f"seed must be from 0 to {TOP_SEED}, got {seed}" in line
    assert not list(tmp_path.glob("out*"))


def test_a_seed_that_leaves_too_few(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["generate", "--model", str(model_folder), "--out", str(tmp_path / "out"), "--seed", str(TOP_SEED - 1)]
    assert "leaves no seeds for 3 images" in refused([*arguments, "--count", "3"], capsys)
    assert main([*arguments, "--count", "2", "--candidates", "3"]) == 0


def test_the_largest_seed_trains(var: list[str], tmp_path: Path) -> None:
    assert main([*var, "--seed", str(TOP_SEED)]) == 0


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_that_failed_is_no_obstacle(var: list[str], tmp_path: Path, resume: bool) -> None:
    """A folder that an earlier version left behind, of a seed that no generator takes."""
    run = tmp_path / "run"
    assert main(var) == 0
    settings = read_json(run / "config.json") | {"seed": -1}
    for left in ("model", "samples", "run.json", "metrics.jsonl"):
        shutil.rmtree(run / left) if (run / left).is_dir() else (run / left).unlink()
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.unlink()
    (run / "config.json").write_text(json.dumps(settings))
    assert main([*var, "--seed", "3", *(["--resume"] if resume else [])]) == 0
    assert read_json(run / "config.json")["seed"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rate", "0"], "learning_rate must be a number above 0"),
        (["--learning-rate", "nan"], "learning_rate must be a number above 0"),
        (["--beta1", "1"], "beta1 must be at least 0 and below 1"),
        (["--l1", "nan"], "l1 must be at least 0"),
        (["--epochs", "inf"], "epochs must be at least 0"),
        (["--heldout-share", "1"], "heldout_share must be at least 0 and below 1"),
        (["--precision", "int8"], "precision 'int8' is not known; expected one of auto, fp32, bf16, fp16"),
        (["--precision", "fp16"], "tokenizers train in bf16 or fp32"),
        (["--device", "toaster"], "device 'toaster' is not known"),
        (["--perceptual", "0.1", "--perceptual-weights", "nowhere.pth"], "nowhere.pth: not a state dict"),
        (["--perceptual", "0.1", "--perceptual-backbone", "nothing"], "name the layers of nothing"),
        (["--init-from", "nowhere"], "model 'nowhere' is not known"),
        (["--heldout", "nowhere"], "data nowhere: there is no such file or folder"),
        (["--decoder-only"], "decoder_only needs init_from"),
        (["--disturb", "2"], "disturb must be between 0 and 1, got 2.0"),
        (["--scale-dropout", "0.1", "--scales", "4,4,4"], "scale_dropout needs more than 3 scales, got 4,4,4"),
        (["--resume", "--seed", "-1"], "seed must be from 0"),
    ],
)
def test_a_refused_start_leaves_nothing(
    image_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture, flags: list[str], message: str
) -> None:
    arguments = [*TOKENIZER, "--data", str(image_folder()), "--out", str(tmp_path / "run"), *flags]
    assert message in refused(arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_unreadable_held_out_images_are_refused_first(
    image_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, broken = image_folder(), image_folder("broken", per_class=1)
    for path in broken.rglob("*.png"):
        path.write_bytes(b"broken")
    assert main([*TOKENIZER, "--data", str(data), "--heldout", str(broken), "--out", str(tmp_path / "run")]) == 2
    assert "3 of 3 images cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_settings_of_a_run_are_used_whole(var: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(var) == 0
    settings = tmp_path / "run" / "config.json"
    capsys.readouterr()
    assert main(["train", "var", "--config", str(settings), "--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "again" / "model")], "nothing is suggested beside it"
    assert weights(tmp_path / "again") == weights(tmp_path / "run")
    recorded = [read_json(tmp_path / name / "config.json") | {"out": ""} for name in ("run", "again")]
    assert recorded[0] == recorded[1]
    assert main(["train", "var", "--config", str(settings), "--preset", "small", "--out", str(tmp_path / "c")]) == 0
    assert f"--preset small gives way to the model of --config {settings}" in capsys.readouterr().err
    line = refused(["train", "var", "--config", str(settings)], capsys)
    assert "run: holds a run already; add --resume" in line


def test_a_stream_with_a_runs_settings_needs_no_preset(
    image_folder: Make, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stream = ["--stream", "--data", str(write_parquet(tmp_path / "rows")), "--tokenizer", str(model_folder)]
    line = refused(["train", "var", *stream, "--out", str(tmp_path / "x")], capsys)
    assert "a stream cannot be looked at beforehand: name a --preset" in line
    assert main([*VAR, *stream, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    settings = str(tmp_path / "run" / "config.json")
    assert main(["train", "var", "--config", settings, "--out", str(tmp_path / "again")]) == 0
    assert weights(tmp_path / "again") == weights(tmp_path / "run")


def test_tokens_say_what_follows_and_notice_other_images(
    image_folder: Make, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, tokens = image_folder(), tmp_path / "my tokens"
    command = ["tokenize", "--tokenizer", str(model_folder), "--out", str(tokens)]
    assert main([*command, "--data", str(data)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(tokens)
    assert said.err.splitlines()[-1] == f"next: nextscale train var --tokenizer {model_folder} --data '{tokens}'"
    moved = shutil.move(data, tmp_path / "moved")
    assert main([*command, "--data", f"{moved}/", "--resume"]) == 0, "moved, not changed"
    assert "made with other settings: views was 1, now 2" in refused(
        [*command, "--data", str(moved), "--resume", "--views", "2"], capsys
    )
    (tmp_path / "moved" / "blue").rename(tmp_path / "moved" / "violet")
    line = refused([*command, "--data", str(moved), "--resume"], capsys)
    assert f"holds tokens of other images than {moved} holds now" in line
    assert read_json(tokens / "config.json")["precision"] in ("fp32", "bf16")


def test_help_names_auto_as_the_default_precision(capsys: pytest.CaptureFixture) -> None:
    for command in (
        ["train", "tokenizer"],
        ["train", "var"],
        ["tokenize"],
        ["scaling", "run"],
        ["scaling", "ablation"],
    ):
        assert main([*command, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "auto (bf16 where the processor multiplies it" in text, command
