"""Process groups and what goes through them; blocks that are gathered in the type of products."""

import copy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from nextscale.families import family_of
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import autocast
from nextscale.training import parallel
from nextscale.training.parallel import any_process, launched, reduce_mean, shard
from toys import make_tokenizer, make_transformer

CPU = torch.device("cpu")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_figures_go_by_gloo_beside_nccl_and_processes_are_patient(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gpus: int
) -> None:
    joined: list[dict] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: joined.append({"current": device}))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **rest: joined.append({"backend": backend} | rest))
    monkeypatch.setattr(parallel.atexit, "register", lambda leave: None)
    for name, value in {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launched().world == 8
    assert joined[-1]["timeout"] >= timedelta(hours=2)
    assert caplog.messages == (
        ["NCCL needs a GPU for each of 2 processes, and here are 1; they exchange by gloo"] if gpus == 1 else []
    )
    if gpus == 2:
        device = torch.device("cuda", 1)
        assert joined[0] == {"current": device}
        assert (joined[1]["backend"], joined[1]["device_id"]) == ("cpu:gloo,cuda:nccl", device)
    else:
        assert len(joined) == 1 and joined[0]["backend"] == "gloo"


def test_flags_and_figures_are_exchanged_on_the_cpu(monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    seen: list[str] = []
    exchange = dist.all_reduce

    def watched(tensor: torch.Tensor, *rest: object) -> None:
        seen.append(tensor.device.type)
        exchange(tensor, *rest)

    monkeypatch.setattr(dist, "all_reduce", watched)
    with torch.device("meta"):  # where tensors are made that do not say where
        assert any_process(True) and not any_process(False)
    assert reduce_mean(torch.tensor([1.0, 2.0])) == [1.0, 2.0]
    assert seen == ["cpu"] * 3


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of modulation rows, which are not changed in place
def test_blocks_are_gathered_in_the_type_of_products(alone: None) -> None:
    tokenizer, plain = make_tokenizer(), make_transformer().train()
    family, split = family_of(plain.config), copy.deepcopy(plain)
    shard(split, family.units(split), CPU, torch.bfloat16)
    seen: dict[str, torch.dtype] = {}

    def look(linear: torch.nn.Module, inputs: tuple) -> None:
        seen["weight"] = linear.get_parameter("weight").dtype

    split.blocks[1].attention.qkv.register_forward_pre_hook(look)
    split.blocks[1].register_forward_pre_hook(lambda block, inputs: seen.update(states=inputs[0].dtype))
    packed, classes = torch.randint(32, (3, 30)), torch.tensor([0, 1, 3])
    losses = []
    for model in (plain, split):
        with autocast(CPU, torch.bfloat16):
            loss, _ = family.loss(
                model, TokenPyramid(packed, model.schedule), classes, tokenizer=tokenizer, config=model.config
            )
        loss.backward()
        losses.append(loss.item())
    assert seen == {"weight": torch.bfloat16, "states": torch.float32}
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    ours, theirs = (model.get_parameter("blocks.1.feed_forward.0.weight").grad for model in (split, plain))
    assert ours is not None and theirs is not None and ours.dtype == torch.float32
    difference = (ours.full_tensor() - theirs).norm() / theirs.norm()
    assert difference < 0.1
