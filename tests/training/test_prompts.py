"""Training on captions: what is left out, exact continuation, and models of classes that become models of prompts."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale import VARPipeline
from nextscale.checkpoint import load_config, load_transformer
from nextscale.config import read_json
from nextscale.families.var import VAR
from nextscale.nn import TextConfig
from nextscale.text import text_prompts
from nextscale.training.prompts import kept_words, some_prompts
from nextscale.training.stage2 import split_batch, train_transformer
from nextscale.training.warm_start import start_prompts, started_config
from toys import CLASS_NAMES, TEXT, make_pipeline, make_transformer, transformer_config
from training.small_runs import Make, interrupt_at, lines, stage2_config

CAPTIONS: dict[str, Any] = {"condition": "text", "caption_template": "a {name} square", "text_tokens": 4}


def test_captions_and_words_are_left_out_by_chance() -> None:
    captions, chances = ["a red heart"] * 4000, torch.rand(4000, dtype=torch.float64)
    kept = kept_words(captions, chances, captions_dropped=0.1, words_dropped=0.2)
    empty = torch.tensor([not caption for caption in kept])
    assert torch.equal(empty, chances < 0.1)
    counts = torch.tensor([len(caption.split()) for caption in kept])[~empty].double()
    assert float(counts.mean()) == pytest.approx(3 * 0.8 + 3 * 0.2**3, abs=0.05) and int(counts.min()) == 1
    assert kept == kept_words(captions, chances, captions_dropped=0.1, words_dropped=0.2)
    assert kept_words(captions[:9], chances[7:16], captions_dropped=0.1, words_dropped=0.2) == kept[7:16]
    whole = kept_words(["a  red\theart", ""], torch.tensor([0.5, 0.5]), captions_dropped=0.1, words_dropped=0.0)
    assert whole == ["a red heart", ""]
    assert some_prompts(["", "b", "a", "b"]) == ("b", "a")


def test_parts_of_a_batch_have_their_prompts() -> None:
    wanted = text_prompts(TEXT, ["a", "b", "c", "d", "e"])
    parts = split_batch(torch.arange(5.0).view(5, 1), wanted, 2)
    assert [len(images) for images, _ in parts] == [len(texts) for _, texts in parts] == [3, 2]
    assert torch.equal(parts[1][1].tokens, wanted.tokens[3:])


def test_captions_train_and_continue_exactly(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder()
    settings = CAPTIONS | {"steps": 6}
    first, second = (stage2_config(data, tokenizer_folder, tmp_path / name, **settings) for name in "ab")
    train_transformer(first)
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train_transformer(second)
    monkeypatch.undo()
    train_transformer(second, resume=True)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert {"heldout_loss", "heldout_unconditional_loss"} <= set(lines(tmp_path / "a")[-1])
    config = load_config(tmp_path / "a")
    assert config.class_names == () and config.prompts
    assert set(config.prompts) <= {f"a {name} square" for name in CLASS_NAMES}
    assert read_json(tmp_path / "a" / "model" / "transformer" / "config.json")["text"]["tokens"] == 4
    pipeline = VARPipeline.from_pretrained(tmp_path / "a")
    torch.manual_seed(0)
    fresh = VAR(pipeline.transformer.config)
    fresh.initialise()
    state, before = pipeline.transformer.state_dict(), fresh.state_dict()
    moved = {name for name in state if not torch.equal(state[name], before[name])}
    assert {"text.words.weight", "text.pooled.weight", "blocks.0.cross.proj.weight", "text.whole"} <= moved
    with pytest.raises(ValueError, match="cannot continue with another word_dropout"):
        train_transformer(replace(first, word_dropout=0.3), resume=True)


def test_captions_are_needed(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    config = stage2_config(image_folder(), tokenizer_folder, tmp_path / "run", condition="text")
    with pytest.raises(ValueError, match="has no captions, which --condition text trains on.*--caption-template"):
        train_transformer(config)
    with pytest.raises(ValueError, match="condition 'words' is not known; expected class or text"):
        stage2_config(tmp_path, tmp_path, tmp_path, condition="words")
    with pytest.raises(ValueError, match="text_encoder is for models of prompts"):
        stage2_config(tmp_path, tmp_path, tmp_path, text_encoder="t5")


@torch.no_grad()
def test_a_model_of_classes_becomes_one_of_prompts() -> None:
    start, config = make_transformer(), transformer_config(text=TEXT)
    torch.manual_seed(1)
    model = VAR(config).eval()
    model.initialise()
    assert "text encoder and attention to it start anew" in start_prompts(model, start)
    latents, wanted = torch.randn(2, 29, 8), text_prompts(TEXT, ["a red heart", ""])
    expected = start(latents, torch.tensor([3, 3]))
    torch.testing.assert_close(model(latents, wanted), expected, msg="it begins as the model without a class")
    again = VAR(config).eval()
    assert "all of its weights are taken over" in start_prompts(again, model)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), model.parameters(), strict=True))


def test_fine_tuning_takes_a_model_of_classes(
    tmp_path: Path, image_folder: Make, caplog: pytest.LogCaptureFixture
) -> None:
    make_pipeline().save_pretrained(tmp_path / "start")
    given: dict[str, Any] = {"init_from": str(tmp_path / "start"), "steps": 1, "sample_every": 1}
    with caplog.at_level(logging.INFO, logger="nextscale"):
        train_transformer(stage2_config(image_folder(), tmp_path / "start", tmp_path / "run", **given, **CAPTIONS))
    assert any("all but its classes is taken over" in record.getMessage() for record in caplog.records)
    tuned = load_transformer(tmp_path / "run")
    assert tuned.config.text.tokens == 4 and tuned.config.classes == 0
    given["init_from"] = str(tmp_path / "run")
    with pytest.raises(ValueError, match="is a model of prompts, whose words are no classes; add --condition text"):
        train_transformer(stage2_config(image_folder(), tmp_path / "start", tmp_path / "other", **given))


def test_a_model_of_prompts_keeps_its_way_of_reading_and_may_become_refinable() -> None:
    start = make_transformer(text=TEXT)
    known: dict[str, Any] = {"tokenizer": {}, "classes": 0, "source": "words"}
    for text in (TEXT, TextConfig()):
        fitted = started_config(start.config, transformer_config(text=text, refinable=True), **known)
        assert fitted.text == TEXT and fitted.refinable
    model = VAR(fitted)
    model.initialise()
    vector = model.state_dict()["known"].clone()
    start_prompts(model, start)
    assert torch.equal(model.state_dict()["known"], vector) and torch.equal(model.positions, start.positions)
    with pytest.raises(ValueError, match="init_from words: reads prompts its own way; leave out --text-encoder"):
        started_config(start.config, transformer_config(text=TextConfig(tokens=9)), **known)
