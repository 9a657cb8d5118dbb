"""Stage 1 end to end on toy images: learning, exact repetition, exact resume."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from nextscale.checkpoint import fingerprint, load_tokenizer
from nextscale.errors import TrainingStopped
from nextscale.training import heldout
from nextscale.training.config import AdversarialConfig
from nextscale.training.stage1 import train_tokenizer
from nextscale.training.warm_start import rescaled_state
from toys import make_tokenizer, tokenizer_config
from training.small_runs import FAST, Make, interrupt_at, lines, stage1_config, stop_while, weights

ADVERSARY = AdversarialConfig(adversarial=0.4, adversarial_start=0.3, discriminator_channels=4, discriminator_levels=2)


STYLE = replace(ADVERSARY, discriminator="stylegan2", r1_every=3)
VIT = tokenizer_config(architecture="vit", patch=4, width=16, depth=1, normalised_codes=True)


@pytest.mark.parametrize(
    "changes", [{}, {"adversary": ADVERSARY}, {"adversary": STYLE, "model": VIT}], ids=["plain", "patch", "vit"]
)
def test_stage1_repeats_and_resumes_exactly(
    tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    data = image_folder()
    first, second, third = (stage1_config(data, tmp_path / name, **changes) for name in "abc")
    train_tokenizer(first)
    train_tokenizer(second)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    interrupt_at(monkeypatch, 6)
    with pytest.raises(TrainingStopped, match="c: stopped at step 6 of 12; --resume continues"):
        train_tokenizer(third)
    monkeypatch.undo()
    assert lines(tmp_path / "c")[-1]["step"] == 6
    train_tokenizer(third, resume=True)
    assert lines(tmp_path / "c") == lines(tmp_path / "a")
    a, c = (load_tokenizer(tmp_path / name).state_dict() for name in "ac")
    assert all(torch.equal(a[name], c[name]) for name in a)
    penalties = [line["step"] for line in lines(tmp_path / "a") if "r1" in line]
    assert penalties == ([6, 12] if changes.get("adversary") is STYLE else []), (
        "of every third step, where it is logged"
    )


@pytest.mark.drawn
def test_stage1_records_health_and_pictures(tmp_path: Path, image_folder: Make) -> None:
    train_tokenizer(stage1_config(image_folder(), tmp_path / "run"))
    logged = [line for line in lines(tmp_path / "run", timing=True) if "perplexity" in line]
    assert len(logged[0]["perplexity"]) == len(logged[0]["used_per_scale"]) == 4
    assert {"loss", "l1", "l2", "quantizer", "gradient_norm", "images_per_second"} <= set(logged[0])
    measured = [line for line in lines(tmp_path / "run") if "heldout_psnr" in line]
    assert [line["step"] for line in measured] == [6, 12]
    assert len(measured[0]["heldout_psnr_after"]) == 4
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == ["00000006.png", "00000012.png"]
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["model"]["codebook_size"] == 32
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    with Image.open(tmp_path / "run" / "codebook.png") as picture:
        assert picture.width > 500


def test_the_discriminator_is_logged_from_its_start(tmp_path: Path, image_folder: Make) -> None:
    train_tokenizer(stage1_config(image_folder(), tmp_path / "run", adversary=ADVERSARY))
    logged = {line["step"]: line for line in lines(tmp_path / "run") if "loss" in line}
    names = {"adversarial", "adaptive_weight", "discriminator", "score_real", "score_reconstructed"}
    assert not names & set(logged[2])
    assert names <= set(logged[6])
    assert logged[6]["adaptive_weight"] > 0


def test_training_the_decoder_alone_keeps_the_tokens(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path
) -> None:
    before = load_tokenizer(tokenizer_folder)
    config = stage1_config(image_folder(), tmp_path / "run", init_from=str(tokenizer_folder), decoder_only=True)
    after = load_tokenizer(train_tokenizer(config))
    assert fingerprint(after) == fingerprint(before)
    changed = {
        name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(after.encode(images).packed, before.encode(images).packed)
    with pytest.raises(ValueError, match="decoder_only needs init_from"):
        stage1_config(tmp_path, tmp_path, decoder_only=True)


def test_training_goes_on_from_another_tokenizer(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    config = stage1_config(
        image_folder(),
        tmp_path / "run",
        init_from=str(tokenizer_folder),
        steps=1,
        model=tokenizer_config(codebook_size=64, beta=0.75),
        optimiser=replace(FAST, learning_rate=1e-9),
    )
    before, after = load_tokenizer(tokenizer_folder), load_tokenizer(train_tokenizer(config))
    assert after.config == replace(before.config, beta=0.75)
    assert after.quantizer.beta == 0.75
    torch.testing.assert_close(after.quantizer.codebook, before.quantizer.codebook)


def test_a_tokenizer_takes_other_scales(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    before = load_tokenizer(tokenizer_folder)
    changes = {"init_from": str(tokenizer_folder), "steps": 1, "optimiser": replace(FAST, learning_rate=1e-9)}
    for scales in (((4, 4),), ((4, 4),) * 3):
        config = stage1_config(image_folder(), tmp_path / str(len(scales)), init_scales=scales, **changes)
        after = load_tokenizer(train_tokenizer(config))
        assert after.config == replace(before.config, scales=scales, phi_map=())
        torch.testing.assert_close(after.encoder.state_dict(), before.encoder.state_dict())
        last = (one.phi[one.phi_map[-1]].weight for one in (after.quantizer, before.quantizer))
        torch.testing.assert_close(*last)
        assert after.encode(torch.zeros(1, 3, 16, 16)).packed.shape == (1, 16 * len(scales))
    with pytest.raises(ValueError, match="the last scale must be that of"):
        train_tokenizer(stage1_config(image_folder(), tmp_path / "5", init_scales=((5, 5),), **changes))
    with pytest.raises(ValueError, match="init_scales needs init_from"):
        stage1_config(tmp_path, tmp_path, init_scales=((4, 4),))


def test_convolutions_phi_are_new_where_there_were_none() -> None:
    single = make_tokenizer(scales=((4, 4),), phi_map=(-1,), normalised_codes=True)
    several = make_tokenizer(seed=1, normalised_codes=True)
    state = rescaled_state(single, several)
    assert set(state) == set(several.state_dict())
    for name, tensor in state.items():
        source = several if name.startswith("quantizer.phi.") else single
        assert torch.equal(tensor, source.state_dict()[name])
    assert not [name for name in rescaled_state(several, single) if name.startswith("quantizer.phi.")]


def test_codebook_starts_from_the_data_and_dead_codes_restart(tmp_path: Path, image_folder: Make) -> None:
    config = stage1_config(image_folder(), tmp_path / "run", steps=30, model=tokenizer_config(codebook_size=64))
    train_tokenizer(config)
    logged = [line for line in lines(tmp_path / "run") if "restarted" in line]
    assert logged
    assert logged[-1]["step"] <= 24, "no restarts in the last fifth"
    measured = lines(tmp_path / "run")[-1]
    assert measured["heldout_used"] > 0.5
    assert min(measured["heldout_perplexity"][1:]) > 2


@pytest.mark.parametrize("measurement", [1, 2])
def test_measuring_can_be_stopped_and_is_made_up_for(
    tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch, measurement: int
) -> None:
    data = image_folder()
    settings = {"steps": 4, "sample_every": 2, "checkpoint_every": 3, "decoded_images": 4}
    whole, parts = (stage1_config(data, tmp_path / name, **settings) for name in ("whole", "parts"))
    train_tokenizer(whole)
    with monkeypatch.context() as patch:
        # A measurement reads twice: all images for their codes, a few to decode them.
        stop_while(patch, heldout, "iterate_images", 2 * measurement - 1)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(parts)
    assert (tmp_path / "parts" / "model").exists() == (measurement == 2), "nothing is exported half-measured"
    saved = sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert saved[-1] == f"step-{2 * measurement:08d}.pt"
    train_tokenizer(parts, resume=True)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_few_images_are_decoded_and_the_codes_of_all_are_counted(
    tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    read = heldout.iterate_images

    def reading(*arguments: object, **options: object) -> object:
        seen.append(list(options["indices"]))
        return read(*arguments, **options)

    monkeypatch.setattr(heldout, "iterate_images", reading)
    config = stage1_config(image_folder(), tmp_path / "run", steps=1, decoded_images=3, heldout_images=12)
    train_tokenizer(config)
    assert seen == [[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 23], [0, 10, 23]], "from all classes"


def test_without_held_out_data_some_images_are_set_aside(
    tmp_path: Path, image_folder: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = image_folder()
    with caplog.at_level("INFO", "nextscale"):
        train_tokenizer(stage1_config(data, tmp_path / "run", steps=1, heldout=""))
        train_tokenizer(stage1_config(data, tmp_path / "all", steps=1, heldout="", heldout_share=0.0))
    said = [line for line in caplog.messages if line.startswith("trains on 24 images in 3 classes by subfolder")]
    aside = "; without --heldout, 1 of the images are set aside to measure on"
    for line, end in zip(said, (aside, ""), strict=True):
        assert line.endswith(f"; computes in fp32{end}")
    assert "heldout_psnr" in lines(tmp_path / "run")[-1]
    assert "training_psnr" in lines(tmp_path / "all")[-1], "what is trained on is not called held out"
    assert any(line.startswith("training images at step 1: PSNR") for line in caplog.messages)


def test_float32_is_float32_throughout(tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    autocast = torch.autocast

    def spy(device: str, dtype: torch.dtype | None = None, *, enabled: bool = True) -> torch.autocast:
        assert not enabled, f"autocast to {dtype}, which some processors have to emulate"
        return autocast(device, dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", spy)
    train_tokenizer(stage1_config(image_folder(), tmp_path / "run", steps=4, log_every=3, sample_every=9))
    assert any("restarted" in line for line in lines(tmp_path / "run"))
