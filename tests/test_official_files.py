"""What wraps the authors' weights is taken off; what cannot be read is said."""

import argparse
import logging
import os
from pathlib import Path

import pytest
import torch

from nextscale import VARPipeline
from nextscale.catalogue import find_model
from nextscale.official import tokenizer_to_official, transformer_to_official
from nextscale.official_files import read_part, read_parts
from toys import make_tokenizer, make_transformer

VAE = tokenizer_to_official(make_tokenizer(patch=1))
VAR = transformer_to_official(make_transformer())
EMA = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in VAR.items()}


def prefixed(state: dict, *prefixes: str) -> dict:
    return {"".join(prefixes) + name: tensor for name, tensor in state.items()}


def same(state: dict, wanted: dict) -> bool:
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


def compiled(state: dict) -> dict:
    """Names as compiled blocks have them."""
    return {name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (VAR, ""),
        (prefixed(VAR, "module."), "module"),
        (prefixed(VAR, "_orig_mod."), ""),
        (prefixed(VAR, "module.", "_orig_mod."), "module"),
        (compiled(VAR), ""),
        ({"state_dict": VAR, "epoch": 3}, "state_dict"),
        ({"model": prefixed(VAR, "module."), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, "model.module"),
        ({"model": VAR, "model_ema": EMA}, "model"),
        ({"ema": EMA, "model": VAR}, "model"),
        ({"trainer": {"var_wo_ddp": VAR, "vae_local": VAE, "var_opt": {"lr": 1.0}}, "iter": 7}, "trainer.var_wo_ddp"),
        ({"state_dict": prefixed(VAR, "model.") | prefixed(EMA, "ema.") | prefixed(VAE, "vae.")}, "state_dict.model"),
        (VAR | prefixed(VAE, "vae_proxy."), ""),
    ],
)
def test_transformers_are_found_whatever_wraps_them(content: dict, place: str, tmp_path: Path, caplog) -> None:
    torch.save(content, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO):
        assert same(read_part(tmp_path / "x.pth", "transformer"), VAR)
    told = " ".join(caplog.messages)
    assert (f"the transformer's weights are those of {place}" in told) == bool(place)


def test_averaged_weights_are_taken_where_there_are_no_others(tmp_path: Path, caplog) -> None:
    torch.save({"ema": EMA, "model": VAR}, tmp_path / "both.pth")
    torch.save({"ema": EMA, "epoch": 1}, tmp_path / "ema.pth")
    with caplog.at_level(logging.INFO):
        assert same(read_part(tmp_path / "both.pth", "transformer"), VAR)
        assert "those of model; ema left aside" in caplog.text
        assert same(read_part(tmp_path / "ema.pth", "transformer"), EMA)
        assert "those of ema" in caplog.messages[-1]


def test_a_trainer_state_is_a_whole_model(tmp_path: Path) -> None:
    """As the authors' trainer leaves it, options included."""
    trainer = {"config": {"depth": 2}, "var_wo_ddp": VAR, "vae_local": VAE, "var_opt": {"state": {}}}
    state = {"epoch": 2, "args": argparse.Namespace(depth=2, lr=1e-4), "trainer": trainer}
    torch.save(state, tmp_path / "ar-ckpt-last.pth")
    torch.save(VAE, tmp_path / "vae_x.pth")
    torch.save(VAR, tmp_path / "var.pth")
    nested, flat = (
        VARPipeline.from_pretrained(tmp_path / name).generate([0, 2], seeds=[1, 2])
        for name in ("ar-ckpt-last.pth", "var.pth")
    )
    assert torch.equal(nested.tokens.packed, flat.tokens.packed)
    assert find_model(tmp_path / "ar-ckpt-last.pth").place == str(tmp_path / "ar-ckpt-last.pth")


def test_a_tokenizer_from_training(tmp_path: Path) -> None:
    torch.save({"trainer": {"vae_wo_ddp": prefixed(VAE, "module."), "vae_ema": VAE}}, tmp_path / "vae.ckpt")
    stored = find_model(tmp_path / "vae.ckpt")
    assert stored.config().kind == "tokenizer"
    assert torch.equal(stored.tokenizer().quantizer.codebook, VAE["quantize.embedding.weight"])


def test_files_before_torch_1_6_are_read(tmp_path: Path) -> None:
    torch.save(VAR, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_part(tmp_path / "old.pth", "transformer"), VAR)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"weights": {"a.b": torch.zeros(1)}, "step": 3}, "weights, step at the top; number of tensors: 1"),
        (
            {f"layer{i}.w": torch.zeros(1) for i in range(9)},
            "layer4.w, layer5.w and 3 more at the top; number of tensors: 9",
        ),
        ([1, 2], "it is a list"),
        ({}, "nothing at the top; number of tensors: 0"),
    ],
)
def test_what_was_found_instead_is_said(content: object, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no tokenizer or transformer of the authors'") as error:
        find_model(tmp_path / "x.pth")
    assert found in str(error.value)


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    torch.save(VAE, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: holds a tokenizer, expected a transformer, such as var_d16\.pth"):
        read_part(tmp_path / "x.pth", "transformer")


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_files_that_would_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": VAR, "args": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(
        ValueError, match=r"evil\.pth: holds not only tensors and plain values but also \S*system, which"
    ):
        read_parts(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth: ") as error:
        read_parts(tmp_path / "x.pth")
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value), "torch's advice to read it all the same"
