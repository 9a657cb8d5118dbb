"""Speed at full size: the entrants are what they are called, and extrapolation counts what was measured."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nextscale.bench import full_size
from nextscale.bench.full_size import Entrant, entrants, measure_entrant, measure_growth, random_pipeline, timed
from nextscale.cli import main
from nextscale.families import family
from nextscale.families.config import family_presets
from nextscale.progress import silent
from nextscale.tokenizer.vqvae import VQVAEConfig

CPU = torch.device("cpu")
TINY = VQVAEConfig(
    scales=((4, 4),), channels=16, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, attention=False
)


def test_entrants_have_their_published_sizes() -> None:
    found = {entrant.name: entrant for entrant in entrants(256)}
    sizes = {}
    for name in ("var-d16", "raster-d16", "dit-xl-2"):
        with torch.device("meta"):
            model = family(found[name].kind).network(found[name].config)
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes["var-d16"] == pytest.approx(310e6, rel=0.01)
    assert sizes["raster-d16"] == pytest.approx(sizes["var-d16"], rel=0.01)
    assert sizes["dit-xl-2"] == pytest.approx(675e6, rel=0.01)
    assert [entrant.tokenizer and entrant.tokenizer.image_size for entrant in entrants(512)] == [(512, 512)] * 7
    coders = [entrant.tokenizer for entrant in entrants(256)]
    assert [coder.image_size for coder in coders if coder] == [(256, 256)] * 9 and coders[9:] == [None, None]
    assert [one.name for one in entrants(256)][9:] == ["stylegan-xl-256", "r3gan-ffhq-256"]


@pytest.mark.parametrize("kind", ["var", "raster", "rq", "maskgit", "dit"])
def test_samplers_yield_as_often_as_is_counted(kind: str) -> None:
    scales = {"var": ((1, 1), (2, 2), (4, 4)), "rq": ((4, 4),) * 2}.get(kind, ((4, 4),))
    tokenizer = VQVAEConfig(
        **{name: getattr(TINY, name) for name in vars(TINY) if name != "phi_map"} | {"scales": scales}
    )
    config = family(kind).config(depth=1, heads=1, scales=scales, codebook_size=64)
    pipeline = random_pipeline(Entrant("one", kind, 0, config, tokenizer), CPU, torch.float32)
    assert sum(1 for _ in pipeline.generate_steps([0], seeds=[0])) == family(kind).yields(config)


@pytest.mark.parametrize("kind", ["r3gan", "stylegan-xl"])
def test_a_model_of_one_step_is_measured(kind: str) -> None:
    entrant = Entrant("one", kind, 16, family_presets(kind)["tiny"], None)
    found = measure_entrant(entrant, CPU, torch.float32, 60, flop_rate=1e9, byte_rate=1e9)
    assert found["steps"] == found["measured"] == 1 and found["seconds"] > found["decoding"] >= 0
    least = found["roofline"]
    assert least["read"] == 4 * found["parameters"] and least["decoding"] == 0
    assert least["seconds"] == pytest.approx(max(found["flops"], least["read"]) / 1e9)


def test_what_takes_too_long_is_extrapolated() -> None:
    now = 100.0

    def slow(parts: int) -> Iterator[int]:
        nonlocal now
        for number in range(parts):
            now += 0.02
            yield number

    times, last = timed(slow(100), 100, 0.05, clock=lambda: now)
    assert last == 2 and times.measured == pytest.approx(0.03)
    assert times.seconds == pytest.approx(2.0)
    whole, last = timed(slow(4), 4, 10, clock=lambda: now)
    assert whole.measured == 1 and last == 3
    assert whole.seconds == pytest.approx(0.08)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth is measured at a depth of one."""
    monkeypatch.setattr(full_size, "GROWTH_DEPTH", 1)


def test_growth_is_fitted(shallow: None) -> None:
    report = measure_growth(device=CPU, dtype=torch.float32, grids=(2, 3, 4), progress=silent)
    assert [row["steps"] for row in report["raster"]["rows"]] == [4, 9, 16]
    assert report["raster"]["exponents"]["steps"] == pytest.approx(2)
    assert report["var"]["exponents"]["steps"] < 1.5
    assert all(row["seconds"] > 0 for row in report["var"]["rows"])


def test_unknown_names_and_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--families", "--entrants", "gan", "--json", str(tmp_path / "out.json")]) == 2
    assert "'gan' is not known; expected some of var-d16" in capsys.readouterr().err
    assert main(["bench", "--families", "--sizes", "100"]) == 2
    assert "sizes are 256 and 512, got 100" in capsys.readouterr().err
    assert main(["bench", "--families", "--guided-scales", "8"]) == 2
    assert "guided_scales is for one model" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_the_command(
    shallow: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scales = ((1, 1), (2, 2), (4, 4))
    small = [
        Entrant("var-d1", "var", 256, family("var").config(depth=1, scales=scales), full_size.tiny_decoder(scales)),
        Entrant("raster-d1", "raster", 256, family("raster").config(depth=1, scales=((4, 4),)), TINY),
    ]
    monkeypatch.setattr(full_size, "entrants", lambda size: small)
    monkeypatch.setattr(full_size, "memory_rate", lambda device: 1e10)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["bench", "--families", "--precision", "fp32", "--json", str(tmp_path / "out.json")]) == 0
    assert "raster-d1" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out.json").read_text())["models"]
    assert [row["steps"] for row in rows] == [3, 16] and all(row["measured"] == 1 for row in rows)
    growth = measure_growth(device=CPU, dtype=torch.float32, grids=(2, 3, 4), progress=silent)
    (tmp_path / "grown.json").write_text(
        json.dumps(json.loads((tmp_path / "out.json").read_text()) | {"growth": growth})
    )
    assert main(["bench", "--report", str(tmp_path / "grown.json"), "--plot", str(tmp_path / "growth.png")]) == 0
    shown = capsys.readouterr().out
    assert "raster-d1" in shown and "exponents of n" in shown and (tmp_path / "growth.png").is_file()


def test_reports_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert main(["bench", "--report", str(tmp_path / "a.json")]) == 2
    assert "holds no results of `nextscale bench --families`" in capsys.readouterr().err
    assert main(["bench", "--families", "--entrants", "var-d16", "--plot", str(tmp_path / "a.png")]) == 2
    assert "add --growth" in capsys.readouterr().err and not (tmp_path / "a.png").exists()
