"""What the decoder sees in training in place of perfect codes, against slow references, and whole runs with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale import TokenPyramid
from nextscale.checkpoint import fingerprint, load_tokenizer
from nextscale.errors import TrainingStopped
from nextscale.tokenizer.quantizer import nearest_others
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.config import DisturbanceConfig
from nextscale.training.disturbance import Disturbance, decode_first
from nextscale.training.stage1 import TokenizerStage, train_tokenizer
from toys import make_tokenizer, tokenizer_config
from training.small_runs import Make, interrupt_at, lines, stage1_config

SCALES = ((1, 1), (2, 2), (3, 3), (3, 3), (4, 4))
EVERYTHING = DisturbanceConfig(disturb=0.5, disturb_codes=6, scale_dropout=0.4)


def some_tokens(model: VQVAE, batch: int) -> TokenPyramid:
    packed = torch.randint(32, (batch, model.schedule.length), generator=torch.Generator().manual_seed(1))
    return TokenPyramid(packed, model.schedule)


@torch.no_grad()
def test_each_image_is_decoded_from_its_own_prefix() -> None:
    model = make_tokenizer(scales=SCALES)
    tokens, scales = some_tokens(model, 5), [3, 5, 1, 4, 2]
    found = decode_first(model.quantizer, tokens, torch.tensor(scales))
    for image, kept in enumerate(scales):
        total = model.quantizer.zeros(1)
        for scale in range(kept):
            embedded = model.quantizer.codebook[tokens[scale][image : image + 1]].permute(0, 3, 1, 2)
            if embedded.shape[-1] != 4:
                embedded = torch.nn.functional.interpolate(embedded, size=(4, 4), mode="bicubic")
            convolution = model.quantizer.phi[model.quantizer.phi_map[scale]]
            total = total + 0.5 * embedded + 0.5 * convolution(embedded)
        torch.testing.assert_close(found[image : image + 1], total)


@torch.no_grad()
def test_shares_of_images_lose_codes_and_scales() -> None:
    model = make_tokenizer(scales=SCALES)
    quantizer = model.quantizer
    tokens = some_tokens(model, 1500)
    after = [state.accumulated for state in quantizer.states(tokens)]
    torch.manual_seed(0)
    dropped = Disturbance(DisturbanceConfig(scale_dropout=0.4), quantizer, 0.0, None)(tokens)
    equal = torch.stack([torch.isclose(dropped, one, atol=1e-5).flatten(1).all(dim=1) for one in after])
    assert equal.any(dim=0).all() and not equal[:2].any(), "at least three scales"
    shares = equal.float().mean(dim=1).tolist()
    assert shares == pytest.approx([0, 0, 0.2, 0.2, 0.6], abs=0.05)

    config = DisturbanceConfig(disturb=0.25, disturb_codes=6)
    seen = Disturbance(config, quantizer, 1.0, nearest_others(quantizer.codes(), 6))(tokens)
    changed = ~torch.isclose(seen, after[-1], atol=1e-5).flatten(1).all(dim=1)
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_the_share_of_codes_is_annealed() -> None:
    config = DisturbanceConfig(disturb=0.1)
    shares = [config.tokens_at(epoch, 200) for epoch in (0, 40, 60, 80, 120, 199)]
    assert shares == pytest.approx([1, 1, 0.75, 0.5, 0, 0])
    other = DisturbanceConfig(disturb=0.1, disturb_tokens=0.2, disturb_tokens_end=0.6)
    assert [other.tokens_at(epoch, 200) for epoch in (0, 80, 199)] == pytest.approx([0.2, 0.4, 0.6])


def first_step(data: Path, out: Path, **changes: Any) -> dict[str, float]:
    stage = TokenizerStage(stage1_config(data, out, **changes), resume=False)
    stage.prepare()
    batches = stage.batches(0, None)
    torch.manual_seed(0)
    figures = stage.step(0, next(batches)).figures
    batches.close()
    return {name: float(value) for name, value in figures.items()}


def test_only_the_losses_of_pictures_see_it(tmp_path: Path, image_folder: Make) -> None:
    data = image_folder()
    clean = first_step(data, tmp_path / "clean")
    for name, settings in (("disturb", DisturbanceConfig(disturb=1.0)), ("drop", DisturbanceConfig(scale_dropout=1.0))):
        other = first_step(data, tmp_path / name, disturbance=settings)
        assert other["quantizer"] == clean["quantizer"]
        assert other["l1"] != clean["l1"]
    off = DisturbanceConfig(disturb=1.0, disturb_tokens=0.0)
    assert first_step(data, tmp_path / "off", disturbance=off) == clean


def test_a_run_with_it_repeats_and_resumes_exactly(
    tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder()
    whole, parts = (stage1_config(data, tmp_path / name, disturbance=EVERYTHING) for name in "ab")
    train_tokenizer(whole)
    interrupt_at(monkeypatch, 6)
    with pytest.raises(TrainingStopped):
        train_tokenizer(parts)
    monkeypatch.undo()
    train_tokenizer(parts, resume=True)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_a_decoder_alone_learns_from_it(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    settings = {"init_from": str(tokenizer_folder), "decoder_only": True, "steps": 3}
    data = image_folder()
    clean, disturbed = (
        load_tokenizer(train_tokenizer(stage1_config(data, tmp_path / str(one.disturb), disturbance=one, **settings)))
        for one in (DisturbanceConfig(), EVERYTHING)
    )
    assert fingerprint(disturbed) == fingerprint(clean) == fingerprint(load_tokenizer(tokenizer_folder))
    assert not torch.equal(disturbed.decoder.conv_out.weight, clean.decoder.conv_out.weight)


def test_wrong_settings_are_refused(tmp_path: Path, image_folder: Make) -> None:
    for name in ("disturb", "disturb_tokens", "disturb_tokens_end", "scale_dropout"):
        wrong: Any = {name: 1.5}
        with pytest.raises(ValueError, match=f"{name} must be between 0 and 1, got 1.5"):
            DisturbanceConfig(**wrong)
    with pytest.raises(ValueError, match="disturb_codes"):
        DisturbanceConfig(disturb_codes=0)
    config = stage1_config(image_folder(), tmp_path / "run", disturbance=EVERYTHING)
    with pytest.raises(ValueError, match="scale_dropout needs more than 3 scales, got 4,4,4"):
        TokenizerStage(replace(config, model=tokenizer_config(scales=(4, 4, 4))), resume=False)
    with pytest.raises(ValueError, match="disturb needs a codebook of at least two codes"):
        TokenizerStage(replace(config, model=tokenizer_config(codebook_size=1)), resume=False)
    assert not (tmp_path / "run").exists()
