"""The scripts for a GPU, from beginning to end at toy size on the CPU.

python -m pytest tests/stress/rehearsals.py
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from test_gpu_benchmark import BENCHMARKS


def rehearse(script: str, folder: Path, *arguments: str) -> Path:
    """Run a script at toy size; returns its folder of results."""
    program = ["sh"] if script.endswith(".sh") else [sys.executable]
    where = [str(folder / "out"), "--work", str(folder / "work"), "--rehearse"]
    done = subprocess.run(
        [*program, str(BENCHMARKS / script), *where, *arguments], capture_output=True, text=True, timeout=1800,
        env=os.environ | {"PYTHON": sys.executable, "XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((folder / "out").iterdir())) <= 7  # and a log: no more than eight are brought back
    return folder / "out"


def test_families_are_trained_and_compared(tmp_path: Path) -> None:
    out = rehearse("gpu_families.sh", tmp_path, "--seconds", "1800")
    report = json.loads((out / "families.json").read_text())
    assert len(report["models"]) == 2
    assert (out / "samples.png").is_file()
    rows = (out / "curves.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["var", "64"], ["raster", "64"]]


def test_ways_of_training_are_compared(tmp_path: Path) -> None:
    out = rehearse("gpu_quality.sh", tmp_path, "--seconds", "1800")
    with tarfile.open(out / "reports.tar.gz") as file:
        names = set(file.getnames())
    assert {f"reports/{name}.json" for name in ("about", "var-masked", "demo", "demo-disturbed")} <= names
    joined = b"".join(part.read_bytes() for part in sorted(out.glob("models.tar.part-*")))
    (tmp_path / "models.tar").write_bytes(joined)
    with tarfile.open(tmp_path / "models.tar") as file:
        assert set(file.getnames()) == {f"{name}.tar.xz" for name in ("demo", "growing-disturbed", "var-masked")}
        file.extractall(tmp_path, filter="data")
    with tarfile.open(tmp_path / "var-masked.tar.xz") as file:
        assert "var-masked/transformer/model.safetensors" in file.getnames()


def test_demo_comes_back_in_parts(tmp_path: Path) -> None:
    from nextscale import VARPipeline

    out = rehearse("gpu_demo.sh", tmp_path, "--seconds", "1800")
    parts = sorted(out.glob("model.tar.part-*"))
    (tmp_path / "model.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    shutil.unpack_archive(tmp_path / "model.tar", tmp_path, filter="data")
    pipeline = VARPipeline.from_pretrained(tmp_path / "model", device="cpu")
    assert pipeline.generate(["disc"], seeds=[0]).images[0].size == (64, 64)


def test_every_stage_of_the_first_script_runs(tmp_path: Path) -> None:
    """Without the authors' code, which is not in the repository."""
    out = rehearse("gpu.py", tmp_path, "--budget", "1800")
    found = json.loads((out / "gpu.json").read_text())["stages"]
    wrong = {name: stage["error"] for name, stage in found.items() if "error" in stage or "left out" in stage}
    assert not wrong
    tables = [table for stage in found.values() for table in stage.values() if isinstance(table, dict)]
    assert not [row for table in tables for row in table.values() if isinstance(row, dict) and "error" in row]
    assert found["correctness"]["fp32 tokens equal to the CPU's"] == 1
    assert found["run"]["transformer"]["steps"] > 0
    assert (out / "samples.png").is_file()
    assert "| speed d16 | batch 1 | ours |" in (out / "gpu.md").read_text()
    assert not (tmp_path / "work").exists()
