"""The measurement for a GPU: every stage at toy size on the CPU, and that no stage takes the others along."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_runner")


SETUP = SimpleNamespace(begin=lambda found, deadline: None)


def good(setup: Any, note: Any) -> None:
    note("figure", 1)


def failing(setup: Any, note: Any) -> None:
    note("first", 1)
    raise ValueError("the second failed")


def crashing(setup: Any, note: Any) -> None:
    note("first", 1)
    os.kill(os.getpid(), signal.SIGKILL)


def endless(setup: Any, note: Any) -> None:
    note("first", 1)
    signal.pause()


def test_what_a_stage_does_stays_with_it(runner: ModuleType, tmp_path: Path) -> None:
    report = runner.Report(tmp_path / "gpu.json", {})
    stages = [
        runner.Stage("failing", failing, 60), runner.Stage("crashing", crashing, 60),
        runner.Stage("endless", endless, 2), runner.Stage("greedy", good, 60, least=1e6),
        runner.Stage("good", good, 60),
    ]  # fmt: skip
    runner.run_stages(stages, SETUP, report, 600)
    found = json.loads((tmp_path / "gpu.json").read_text())["stages"]
    assert found["failing"]["first"] == found["crashing"]["first"] == found["endless"]["first"] == 1
    assert "the second failed" in found["failing"]["error"]
    assert str(-signal.SIGKILL) in found["crashing"]["error"]
    assert "deadline" in found["endless"]["error"]
    assert found["greedy"] == {"left out": runner.NO_TIME}
    assert found["good"]["figure"] == 1


def test_later_stages_know_what_earlier_ones_found(runner: ModuleType, tmp_path: Path) -> None:
    class Remembering:
        def begin(self, found: dict, deadline: float) -> None:
            self.found = found

    def second(setup: Any, note: Any) -> None:
        note("earlier", setup.found["first"]["figure"])

    report = runner.Report(tmp_path / "gpu.json", {"commit": "abc"})
    runner.run_stages([runner.Stage("first", good, 60), runner.Stage("second", second, 60)], Remembering(), report, 600)
    assert json.loads((tmp_path / "gpu.json").read_text())["stages"]["second"]["earlier"] == 1


@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    """Without the authors' code, which is not in the repository."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), str(tmp_path), "--rehearse", "--budget", "1800"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["stages"]
    wrong = {name: stage["error"] for name, stage in found.items() if "error" in stage or "left out" in stage}
    assert not wrong
    rows = [
        row for stage in found.values() for rows in stage.values() if isinstance(rows, dict) for row in rows.values()
    ]
    assert not [row for row in rows if isinstance(row, dict) and "error" in row]
    assert found["correctness"]["fp32 tokens equal to the CPU's"] == 1
    assert found["run"]["transformer"]["steps"] > 0
    assert (tmp_path / "samples.png").is_file()
    assert "| speed d16 | batch 1 | ours |" in (tmp_path / "gpu.md").read_text()
    assert not (tmp_path / "work").exists()
