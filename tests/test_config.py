"""Configs to and from plain dictionaries."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale.config import (
    TOP_SEED,
    essential,
    from_dict,
    named,
    read_json,
    read_json_lines,
    require_above_zero,
    require_at_least,
    require_seed,
    require_share,
    to_dict,
)
from nextscale.families.config import transformer_presets, transformer_recipes
from nextscale.families.var import VARConfig
from nextscale.nn import TextConfig
from nextscale.runtime import image_generator
from nextscale.tokenizer.config import tokenizer_presets, tokenizer_recipes
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig
from nextscale.training.config import TokenizerTraining, TransformerTraining


@pytest.mark.parametrize("name", sorted(tokenizer_presets()))
def test_tokenizer_presets_round_trip_and_shrink(name: str) -> None:
    config = tokenizer_presets()[name]
    assert from_dict(VQVAEConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(VQVAEConfig, essential(config)) == config


@pytest.mark.parametrize("name", sorted(transformer_presets()))
def test_transformer_presets_round_trip_and_shrink(name: str) -> None:
    config = transformer_presets()[name]
    assert from_dict(VARConfig, to_dict(config)) == config
    assert from_dict(VARConfig, essential(config)) == config


@pytest.mark.parametrize("name", [n for n in tokenizer_presets() if n.startswith(("small", "tiny", "vit-small"))])
def test_small_tokenizers_build(name: str) -> None:
    assert VQVAE(named(tokenizer_presets(), name)).schedule.final[0] > 1


@pytest.mark.parametrize("name", sorted(transformer_recipes()))
def test_published_recipes_are_whole_settings(name: str) -> None:
    base = {"data": "d", "out": "o", "tokenizer": "t", "model": essential(transformer_presets()[name])}
    config = from_dict(TransformerTraining, base | transformer_recipes()[name])
    rate = config.optimiser.learning_rate * config.batch_size / 256
    assert rate == pytest.approx({"var-d24": 2.4e-4, "var-d30": 3.2e-4, "var-d36": 2.4e-4}.get(name, 3e-4))
    assert config.optimiser.clip == 2
    assert config.optimiser.weight_decay == 0.05


@pytest.mark.parametrize("name", sorted(tokenizer_recipes()))
def test_tokenizer_recipes_are_whole_settings(name: str) -> None:
    base = {"data": "d", "out": "o", "model": essential(tokenizer_presets()[name])}
    config = from_dict(TokenizerTraining, base | tokenizer_recipes()[name])
    published = 1e-4 if name.startswith("vit-vqgan") else 3e-4
    assert config.optimiser.learning_rate * config.batch_size / 256 == pytest.approx(published)


def test_essential_leaves_out_what_depth_derives() -> None:
    assert essential(VARConfig(depth=12)) == {"depth": 12}
    assert essential(VARConfig(depth=12, heads=3)) == {"depth": 12, "heads": 3}


def test_a_text_is_written_only_where_there_is_one() -> None:
    plain, texts = VARConfig(depth=2), VARConfig(depth=2, classes=0, text=TextConfig(tokens=8))
    assert "text" not in to_dict(plain) and to_dict(texts)["text"]["tokens"] == 8
    for config in (plain, texts):
        assert from_dict(VARConfig, to_dict(config)) == config == from_dict(VARConfig, essential(config))
    with pytest.raises(ValueError, match="a model of prompts has no classes, got 3"):
        VARConfig(classes=3, text=TextConfig())
    for wrong, message in (({"width": 96}, "multiple of 64"), ({"encoder": "t5"}, "give both or neither")):
        with pytest.raises(ValueError, match=message):
            TextConfig(**wrong)


def test_nested_groups_round_trip() -> None:
    config = TokenizerTraining(data="d", out="o", steps=3)
    assert from_dict(TokenizerTraining, to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depht": 3}, "unknown setting 'depht'"),
        ({"depth": "three"}, "depth: expected int"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"drop_path": 1.0}, "drop_path must be below 1"),
        ([1], "expected a mapping"),
    ],
)
def test_wrong_settings_are_named(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(VARConfig, values)


def test_missing_setting_is_named() -> None:
    with pytest.raises(ValueError, match="setting 'data' is missing"):
        from_dict(TokenizerTraining, {"out": "o"})


def test_unknown_preset_lists_the_names() -> None:
    with pytest.raises(ValueError, match="expected one of .*small-64"):
        named(tokenizer_presets(), "big")


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_unreadable_json_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c\.json"):
        read_json(tmp_path / "c.json")


def test_names_in_settings_are_those_of_the_code() -> None:
    """Settings are read without torch and so spell names out that torch's modules define again."""
    from nextscale import config, runtime
    from nextscale.editing import hooks
    from nextscale.editing.config import METHOD_NAMES

    assert tuple(runtime.DTYPES) == config.PRECISIONS
    assert tuple(runtime.STORED_DTYPES) == config.STORED
    assert tuple(hooks.METHODS) == METHOD_NAMES


@dataclass(frozen=True)
class Numbers:
    value: float


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_in_range_is_refused(value: float) -> None:
    for require in (require_above_zero, require_share):
        with pytest.raises(ValueError, match="^value must be"):
            require(Numbers(value), "value")
    with pytest.raises(ValueError, match="^value must be at least 0, got"):
        require_at_least(Numbers(value), 0, "value")


def test_the_bounds_of_ranges() -> None:
    require_at_least(Numbers(0), 0, "value")
    require_share(Numbers(0), "value")
    with pytest.raises(ValueError, match="must be a number above 0, got 0"):
        require_above_zero(Numbers(0), "value")
    with pytest.raises(ValueError, match="below 1, got 1"):
        require_share(Numbers(1), "value")


def test_seeds_are_those_of_generators() -> None:
    require_seed(0)
    require_seed(TOP_SEED)
    require_seed(TOP_SEED - 3, count=4)
    torch.Generator().manual_seed(TOP_SEED)
    for seed in (-1, TOP_SEED + 1, 2**64):
        with pytest.raises(ValueError, match=f"^seed must be from 0 to {TOP_SEED}, got {seed}$"):
            require_seed(seed)
        with pytest.raises(ValueError, match="seed must be from 0"):
            image_generator(seed)
    with pytest.raises(ValueError, match="leaves no seeds for 5 images"):
        require_seed(TOP_SEED - 3, count=5)


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "lo', b'{"step": 3\n', b"\0" * 20, b"\xff\xfe\n", b"[1]\n", b"7", b"[" * 100_000, b""]
)
def test_a_log_is_read_up_to_its_last_whole_line(tmp_path: Path, caplog: pytest.LogCaptureFixture, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"step": 1}\n\n{"step": 2, "name": "\xc3\xa4"}\n' + tail)
    with caplog.at_level(logging.WARNING, "nextscale"):
        assert read_json_lines(path) == [{"step": 1}, {"step": 2, "name": "\u00e4"}]
    assert caplog.messages == ([f"{path}: line 4 is damaged and is passed over"] if tail else [])


def test_what_was_written_behind_a_cut_line_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo{"step": 2}\n{"step": 3}')
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}]
    with pytest.raises(ValueError, match="cannot be read"):
        read_json_lines(tmp_path)
