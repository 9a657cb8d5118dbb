"""Run folders: what is kept, what continues, what is refused."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from nextscale.training.run import Metrics, RunFolder, stop_requests


def test_checkpoints_are_kept_and_dropped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", keep=2)
    run.start({"a": 1}, resume=False)
    for step in (1, 2, 3):
        run.save_checkpoint(step, {"step": step})
    assert [path.name for path in run.checkpoints()] == ["step-00000002.pt", "step-00000003.pt"]
    state = run.load_checkpoint()
    assert state == {"step": 3}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(tmp_path / "run")
    run.start({}, resume=False)
    run.save_checkpoint(1, {"step": 1})
    run.save_checkpoint(2, {"step": 2})
    run.checkpoints()[-1].write_bytes(b"cut off")
    assert run.load_checkpoint() == {"step": 1}
    assert "cannot be read" in caplog.text


def test_a_failed_save_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run", keep=1)
    run.start({}, resume=False)
    run.save_checkpoint(1, {"step": 1})

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"step-00000002\.pt: cannot be written"):
        run.save_checkpoint(2, {"step": 2})
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-00000001.pt"]


def test_runs_are_not_overwritten_or_continued_otherwise(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.start({"batch_size": 4, "log_every": 5}, resume=True)  # nothing there: starts
    with pytest.raises(ValueError, match="add --resume to continue it"):
        run.start({"batch_size": 4, "log_every": 5}, resume=False)
    with pytest.raises(ValueError, match="another batch_size: it was 4, now 8"):
        run.start({"batch_size": 8, "log_every": 5}, resume=True)
    run.start({"batch_size": 4, "log_every": 1}, resume=True)


def test_runs_of_an_earlier_version_continue(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.start({"steps": 4, "optimiser": {"clip": 1.0}}, resume=False)
    run.start({"steps": 4, "epochs": 0.0, "optimiser": {"clip": 1.0, "decay": 0.1}}, resume=True)
    with pytest.raises(ValueError, match="another optimiser"):
        run.start({"steps": 4, "epochs": 0.0, "optimiser": {"clip": 2.0, "decay": 0.1}}, resume=True)


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, start=0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": step / 2, "per_scale": [1.0, 2.0]})
    metrics.close()
    resumed = Metrics(tmp_path, start=2)
    resumed.write(3, {"loss": 9.0})
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_ask_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(1)
    assert signal.getsignal(number) == before


def test_unwritable_run_is_one_line() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        RunFolder(Path("/proc/run")).start({}, resume=False)
