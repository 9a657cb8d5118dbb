"""A narrower decoder on frozen tokens: a model of the same tokens, exact repetition, exact resume."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale import VARPipeline
from nextscale.bench.cost import decoder_flops
from nextscale.checkpoint import fingerprint, load_config, load_tokenizer
from nextscale.cli import main
from nextscale.errors import TrainingStopped
from nextscale.official import save_official
from nextscale.training.config import AdversarialConfig, TokenizerTraining
from nextscale.training.stage1 import train_tokenizer
from toys import make_pipeline, make_tokenizer, tokenizer_config
from training.small_runs import Make, interrupt_at, lines, stage1_config

ADVERSARY = AdversarialConfig(adversarial=0.4, adversarial_start=0.3, discriminator_channels=4, discriminator_levels=2)
NARROW = tokenizer_config(decoder_channels=8)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    make_pipeline().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def settings_of(data: Path, out: Path, start: Path, **changes: Any) -> TokenizerTraining:
    taught: dict[str, Any] = {"init_from": str(start), "decoder_only": True, "teacher": 0.5, "model": NARROW}
    return stage1_config(data, out, **taught | changes)


def test_the_model_is_the_same_but_for_a_narrower_decoder(
    tmp_path: Path, image_folder: Make, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder()
    whole, parts = (settings_of(data, tmp_path / name, teacher, adversary=ADVERSARY) for name in "ab")
    train_tokenizer(whole)
    interrupt_at(monkeypatch, 6)
    with pytest.raises(TrainingStopped):
        train_tokenizer(parts)
    monkeypatch.undo()
    train_tokenizer(parts, resume=True)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    losses = [line["teacher"] for line in lines(tmp_path / "a") if "teacher" in line]
    assert len(losses) == 6 and losses[-1] < losses[0]

    before, after = (VARPipeline.from_pretrained(path, dtype="fp32") for path in (teacher, tmp_path / "a"))
    assert after.tokenizer.config.decoder_channels == 8 and load_config(tmp_path / "a").trained_steps == 12
    assert decoder_flops(after.tokenizer.config) < 0.4 * decoder_flops(before.tokenizer.config)
    assert fingerprint(after.tokenizer) == fingerprint(before.tokenizer)
    one, other = before.generate(["red", "blue"], seeds=[1, 2]), after.generate(["red", "blue"], seeds=[1, 2])
    assert torch.equal(one.tokens.packed, other.tokens.packed)
    assert one.images[0].tobytes() != other.images[0].tobytes()
    assert before.config.guidance == after.config.guidance and after.config.class_names == before.config.class_names
    both = [load_tokenizer(tmp_path / name).state_dict() for name in "ab"]
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())

    shutil.rmtree(tmp_path / "b" / "model")
    make_pipeline(1).save_pretrained(tmp_path / "other")
    shutil.rmtree(teacher)
    shutil.copytree(tmp_path / "other", teacher)
    with pytest.raises(ValueError, match="cannot continue: the model whose decoder teaches is another one now"):
        train_tokenizer(parts, resume=True)


def test_what_does_not_go_together_is_refused(
    tmp_path: Path, image_folder: Make, teacher: Path, tokenizer_folder: Path
) -> None:
    data = image_folder()
    with pytest.raises(ValueError, match="teacher needs decoder_only"):
        settings_of(data, tmp_path / "run", teacher, decoder_only=False)
    with pytest.raises(ValueError, match="they need decoder_only, and no ViT"):
        train_tokenizer(settings_of(data, tmp_path / "run", teacher, decoder_only=False, teacher=0.0))
    vit = VARPipeline(make_tokenizer(architecture="vit", patch=4, width=64, depth=1), *make_parts())
    vit.save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="they need decoder_only, and no ViT"):
        train_tokenizer(settings_of(data, tmp_path / "run", tmp_path / "vit"))
    with pytest.raises(ValueError, match="decoders as wide as their encoders"):
        save_official(tmp_path, make_tokenizer(patch=1, decoder_channels=8))
    assert not (tmp_path / "run").exists()
    assert NARROW.largest_map * 2 == tokenizer_config().largest_map and NARROW.stored()["decoder_channels"] == 8
    assert "decoder_channels" not in tokenizer_config().stored()


def make_parts() -> tuple[Any, Any]:
    pipeline = make_pipeline()
    return pipeline.transformer, pipeline.config


def test_the_command(tmp_path: Path, image_folder: Make, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = tmp_path / "run", str(image_folder())
    small = ["--steps", "2", "--batch-size", "4", "--heldout-images", "4", "--precision", "fp32"]
    command = ["distill", "decoder", "--data", data, "--out", str(run)]
    assert main([*command, *small]) == 2
    assert "--model is missing" in capsys.readouterr().err
    assert main([*command, *small, "--model", str(teacher)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == str(run / "model") and f"--model {run}" in shown.err
    assert load_tokenizer(run).config.decoder_channels == 8, "half of the encoder's"
    assert main(["distill", "decoder", str(run), "--resume"]) == 0, "nothing is left to do"
    assert main(["train", "tokenizer", str(run), "--resume"]) == 0, "it is a run of that command"
    capsys.readouterr()
    assert main(["distill", "decoder", str(run), "--resume", "--decoder-channels", "4"]) == 2
    assert "cannot continue with another decoder_channels: it was 8, now 4" in capsys.readouterr().err
    assert main(["generate", "--model", str(run), "--count", "1", "--out", str(tmp_path / "images")]) == 0
