"""Configs to and from plain dictionaries."""

import json
from pathlib import Path

import pytest

from nextscale.config import essential, from_dict, read_json, to_dict
from nextscale.models.var import VARConfig
from nextscale.presets import (
    named,
    tokenizer_presets,
    tokenizer_recipes,
    transformer_presets,
    transformer_recipes,
)
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig
from nextscale.training.tokenizer import TokenizerTraining
from nextscale.training.transformer import TransformerTraining


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


@pytest.mark.parametrize("name", [n for n in tokenizer_presets() if n.startswith(("small", "tiny"))])
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
    assert config.optimiser.learning_rate * config.batch_size / 256 == pytest.approx(3e-4)


def test_essential_leaves_out_what_depth_derives() -> None:
    assert essential(VARConfig(depth=12)) == {"depth": 12}
    assert essential(VARConfig(depth=12, heads=3)) == {"depth": 12, "heads": 3}


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
def test_wrong_settings_are_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(VARConfig, values)  # pyright: ignore[reportArgumentType]


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

    assert tuple(runtime.PRECISIONS) == config.PRECISIONS
    assert tuple(hooks.METHODS) == METHOD_NAMES
