"""What a run says of itself: its first step, its speed, its time, the precision it took."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nextscale.runtime import precision_name, resolve_training_dtype
from nextscale.training import loop
from nextscale.training.config import LoopConfig, OptimiserConfig
from nextscale.training.loop import Forecast, Journal, StepResult, memory_note, settled_precision

CPU = torch.device("cpu")


def test_the_time_is_forecast_once() -> None:
    config = LoopConfig(data="d", out="o", steps=1_000, batch_size=32)
    forecast = Forecast(1, 100.0, config)  # the first step is not measured: it prepares
    assert forecast.line(2, 160.0) == "", "two steps tell too little"
    assert forecast.line(3, 104.0) == "" and forecast.line(5, 109.0) == "", "so do nine seconds"
    assert forecast.line(11, 220.0) == (
        "about 3 h 18 min to go at 2.7 images/s; stop at any time, --resume continues"
    )  # 989 steps of 12 s
    assert forecast.line(12, 232.0) == ""


def test_the_first_step_is_shown_and_no_rate_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    config = LoopConfig(data="d", out="o", steps=100, batch_size=2, log_every=50)
    journal = Journal(tmp_path, config, start=10, title="toy", main=True, device=CPU)
    result = StepResult({"loss": torch.tensor(1.0)}, torch.tensor(0.0), torch.tensor(1.0), {})
    with caplog.at_level(logging.INFO, "nextscale"):
        for done in range(11, 17):
            now += 5
            journal.step(done, result, lambda values: f"loss {values['loss']}")
    journal.close()
    assert caplog.messages[0] == "toy 11/100  loss 1.0  0.4 images/s  5 s, 7 min left"
    assert caplog.messages[1].startswith("about 7 min to go at 0.4 images/s")
    assert len(caplog.messages) == 2
    assert not (tmp_path / "metrics.jsonl").exists(), "a log records every 50 steps, wherever it began"


def test_the_memory_that_training_takes_is_told_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "peak_memory", lambda device: 3 * 2**29)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 2**30))
    assert memory_note(torch.device("cuda")) == "; takes 1.5 of the GPU's 80 GiB"
    assert memory_note(CPU) == ""


def test_auto_takes_what_the_processor_multiplies() -> None:
    config = LoopConfig(data="d", out="o")
    settled, dtype = settled_precision(config, CPU, half=True)
    assert config.precision == "auto" and dtype == resolve_training_dtype("auto", CPU)
    assert settled.precision == precision_name(dtype) != "auto"
    assert settled_precision(replace(config, precision="fp16"), CPU, half=True) == (
        replace(config, precision="fp16"),
        torch.float16,
    )


def test_auto_is_never_float16_where_it_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "resolve_training_dtype", lambda precision, device: torch.float16)  # an older GPU
    config = LoopConfig(data="d", out="o")
    assert settled_precision(config, CPU, half=False)[0].precision == "fp32"
    assert settled_precision(config, CPU, half=True)[0].precision == "fp16"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**63},
        {"steps": 0},
        {"enlarge": 0.5},
        {"enlarge": float("nan")},
        {"epochs": -1.0},
        {"heldout_share": 1.0},
        {"heldout_share": -0.1},
        {"precision": "int8"},
        {"export": "auto"},
        {"limit": -1},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        LoopConfig(data="d", out="o", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.0},
        {"learning_rate": -1e-3},
        {"learning_rate": float("inf")},
        {"clip": 0.0},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"weight_decay": -0.1},
        {"weight_decay_end": float("nan")},
        {"warmup": 1.5},
        {"warmup": float("nan")},
        {"flat": 1.0},
        {"final": -0.1},
        {"ema": 1.1},
    ],
)
def test_optimisers_out_of_range_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        OptimiserConfig(**changes)
