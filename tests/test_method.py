"""docs/method.md: its sampler draws what ours draws, its numbers are those of the files, its pictures are small."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale import ScaleSchedule, VARPipeline

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
SAMPLER = next(block for block in BLOCKS if "def sample(" in block)


@cache
def page() -> dict[str, Any]:
    """What the page's code defines, all blocks run in the order of the page."""
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/method.md", "exec"), names)
    return names


@cache
def demo() -> VARPipeline:
    return VARPipeline.from_pretrained("demo", device="cpu", dtype="fp32")


@pytest.mark.parametrize(
    ("guidance", "top_k", "top_p"), [(4.0, 900, 0.95), (1.5, 50, 0.9), (2.0, 1024, 0.5), (3.0, 8, 1.0)]
)
def test_the_sampler_draws_our_tokens(guidance: float, top_k: int, top_p: float) -> None:
    names, seeds = ("bigfish", "leaper", "maze", "starpilot"), (0, 1, 8, 2**31)
    settings = {"guidance": guidance, "top_k": top_k, "top_p": top_p}
    ours = demo().generate(names, seeds=seeds, batch_size=4, spatial_guidance=0, **settings).tokens
    for row, (name, seed) in enumerate(zip(names, seeds, strict=True)):
        theirs = page()["sample"](demo(), demo().class_names.index(name), seed, **settings)
        assert torch.equal(theirs.packed[0], ours.packed[row]), name


def test_the_sampler_is_short() -> None:
    assert len(SAMPLER.splitlines()) <= 40
    assert max(map(len, SAMPLER.splitlines())) <= 100  # what GitHub shows without scrolling


def test_the_code_around_it_runs() -> None:
    names = page()
    pyramid = demo().generate("leaper", seeds=[8], guidance=4, top_k=900, top_p=0.95, spatial_guidance=0).tokens
    assert torch.equal(names["image"], demo().tokenizer.decode(pyramid))
    likelihood = demo().log_likelihood(demo().generate("leaper", seeds=[8]).tokens, ["leaper"])
    torch.testing.assert_close(names["loss"], -likelihood.mean())


def test_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    sizes = [(DOCS / picture).stat().st_size for picture in pictures]
    assert len(pictures) >= 7
    assert max(sizes) < 200_000
    assert sum(sizes) < 1_000_000


def test_links_lead_somewhere() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", PAGE) + re.findall(r"`((?:docs|benchmarks)/[\w./-]+)`", PAGE)
    for target in named:
        assert (DOCS / target).exists() or (DOCS.parent / target).exists(), target


def results(name: str) -> Any:
    return json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_measured_numbers_are_those_of_the_files() -> None:
    measured = results("method")
    left = [f"{100 * share:.0f}" for share in measured["left"]]
    assert f"{', '.join(left[:-1])} and {left[-1]} %" in PAGE
    nats = [f"{value:.2f}" for value in (*measured["nats"], measured["nats_of_all"])]
    assert f"| nats per token | {' | '.join(nats)} |" in PAGE
    losses = [f"{run['loss']:.3f}" for run in results("scaling")["results"] if run["kind"] == "var"]
    assert f"| loss, nats per token | {' | '.join(losses)} |" in PAGE
    models = [model for model in results("full-size")["models"] if model["size"] == 256]
    for name in ("var-d16", "raster-d16", "var-d30", "raster-d30", "dit-xl-2"):
        model = next(model for model in models if model["name"] == name)
        work = f"{model['flops'] / 1e12:.3g} | {model['roofline']['read'] / 1e9:.3g}"
        assert f"| {model['steps']} | {work} | {model['seconds']:.3g} |" in PAGE, name


def test_computed_numbers_are_those_of_the_schedules() -> None:
    schedules = demo().schedule, ScaleSchedule([1, 2, 3, 4, 5, 6, 8, 10, 13, 16])
    seen = [sum(n * end for n, end in zip(s.lengths, s.ends, strict=True)) for s in schedules]
    assert f"= {seen[1]:,}".replace(",", "{,}") in PAGE
    shares = [pairs / schedule.length**2 for pairs, schedule in zip(seen, schedules, strict=True)]
    assert f"{100 * shares[0]:.0f} % of the full square for the demo's scales and {100 * shares[1]:.0f} %" in PAGE
    without_cache = [sum(schedule.ends) for schedule in schedules]
    assert f"{without_cache[0]} or {without_cache[1]:,}" in PAGE
