"""The measurement for a GPU: every stage at toy size on the CPU, and that no stage takes the others along."""

import importlib
import json
import os
import signal
import subprocess
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


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("gpu_*.sh")))
def test_scripts_are_shell(script: str) -> None:
    assert subprocess.run(["sh", "-n", str(BENCHMARKS / script)], check=False).returncode == 0


def test_preparing_needs_the_authors_code(tmp_path: Path) -> None:
    done = subprocess.run(["sh", str(BENCHMARKS / "gpu_prepare.sh"), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "not a clone" in done.stderr


def test_commands_of_the_longer_scripts_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rehearsals of these scripts take minutes: `make stress` has them."""
    from nextscale.cli import app

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    families, quality = importlib.import_module("gpu_families"), importlib.import_module("gpu_quality")
    plan = quality.Plan(tmp_path, tmp_path, SimpleNamespace(), "cuda", False, tmp_path / "weights.pth", procgen=True)
    runs = [*families.coders(plan).values(), *quality.trainings(plan).values()]
    commands = [["train", *run.arguments, "--steps", "4", "--out", str(run.out)] for run in runs]
    assert len(commands) >= 12
    for command in commands:
        app.parse_args(command, print_error=False, exit_on_error=False)
    with pytest.raises(Exception, match="--self-corrects"):
        app.parse_args([*commands[-1], "--self-corrects", "1"], print_error=False, exit_on_error=False)
