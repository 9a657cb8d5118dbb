"""The longer scripts for a GPU, from beginning to end at toy size on the CPU.

python -m pytest tests/stress/rehearsals.py
"""

import json
import shutil
import tarfile
from pathlib import Path

from test_gpu_benchmark import rehearse


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
