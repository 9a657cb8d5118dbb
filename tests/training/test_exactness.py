"""Runs that repeat to the bit, and blocks that compile to graphs that they share."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale.training.exactness import WORKSPACE, deterministic, exactness_line
from nextscale.training.stage1 import train_tokenizer
from nextscale.training.stage2 import compile_units, train_transformer
from toys import make_transformer
from training.small_runs import Make, lines, stage1_config, stage2_config, weights
from training.test_stage1 import ADVERSARY

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_deterministic_runs_repeat_to_the_bit(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, mobilenet: str
) -> None:
    data = image_folder(side=32)
    settings: dict[str, Any] = {"deterministic": True, "device": DEVICE, "steps": 3}
    losses = {"perceptual": 0.1, "perceptual_weights": mobilenet, "perceptual_shift": 1, "adversary": ADVERSARY}
    runs = []
    for name in "ab":
        train_tokenizer(stage1_config(data, tmp_path / f"1{name}", **settings, **losses))
        train_transformer(stage2_config(data, tokenizer_folder, tmp_path / f"2{name}", **settings))
        runs.append([(lines(tmp_path / run), weights(tmp_path / run)) for run in (f"1{name}", f"2{name}")])
    assert runs[0] == runs[1]
    config = stage2_config(data, tokenizer_folder, tmp_path / "2b", **settings)
    train_transformer(replace(config, deterministic=False), resume=True)  # not another run, but another rounding


def test_the_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert not torch.is_deterministic_algorithms_warn_only_enabled(), "attention would only warn"
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


def test_a_run_says_what_repeats() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert exactness_line(cpu, False) == exactness_line(cpu, True) == ""
    assert exactness_line(cuda, False).endswith("rounding does not; --deterministic makes it, and is slower")
    assert exactness_line(cuda, True).startswith("deterministic: repeats and continues to the same bits")


def test_blocks_of_any_rate_share_their_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, examples: object) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count, fullgraph=True))
    torch._dynamo.reset()
    model = make_transformer(depth=5, drop_path=0.2).train()
    compile_units(model.blocks)
    latents, classes = torch.randn(2, 29, 8), torch.tensor([0, 3])
    for _ in range(2):
        model(latents, classes).sum().backward()
    assert len(graphs) == 2, "of the first, which drops nothing, and of all others"
    assert model.blocks[4].attention.proj.weight.grad is not None
