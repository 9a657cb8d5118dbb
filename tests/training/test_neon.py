"""Neon: the merge against plain arithmetic; each phase stopped and continued; what is chosen, and what is refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nextscale.checkpoint import load_config, load_tokenizer, load_transformer, module_from_state
from nextscale.config import read_json
from nextscale.data.tokens import open_tokens
from nextscale.evaluation import sampled
from nextscale.evaluation.features import identity
from nextscale.families.var import VAR
from nextscale.files import write_json
from nextscale.pipeline import VARPipeline
from nextscale.training import neon, neon_choice
from nextscale.training.neon import train_neon
from nextscale.training.neon_choice import chosen, extrapolated
from nextscale.training.neon_config import NeonTraining
from toys import FAMILY_SCALES, make_baseline, make_pipeline
from training.small_runs import interrupt_at

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, small_features: None) -> None:
    for module in (neon, sampled):
        monkeypatch.setattr(module, "SHARD", 8)


@pytest.fixture
def config(tmp_path: Path, image_folder: Make, model_folder: Path) -> NeonTraining:
    return NeonTraining(
        model=str(model_folder), data=str(image_folder(per_class=12)), out=str(tmp_path / "out"), samples=20, steps=4,
        lengths=2, batch_size=4, learning_rate=0.5, weights=(1, 2), guidances=(0, 2), tuning_count=12, at_once=5,
        features="small-6", precision="fp32", device="cpu",
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """What a run made, by file, without what names the time or its own folder."""
    found = [folder / "neon.json", *folder.glob("model/**/*.*"), *folder.glob("tokens/shard-*/*.arrow")]
    found += folder.glob("tuning/snapshots/**/*.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class Odd(nn.Module):
    """A parameter of each kind that a merge meets, and a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.plain = nn.Parameter(torch.randn(3, 2, generator=generator))
        self.stored_half = nn.Parameter(torch.randn(4, generator=generator).half())
        self.bound = nn.Parameter(torch.tensor([float("-inf"), 1.0 + seed]))
        self.broken = nn.Parameter(torch.tensor([float("nan") if seed else 1.0, 2.0 + seed]))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]) - seed)
        self.register_buffer("count", torch.tensor(seed))


def test_the_merge_is_plain_arithmetic() -> None:
    base, tuned = Odd(0), Odd(1)
    state = extrapolated(base, tuned, 0.75)
    assert list(state) == list(base.state_dict())
    for name in ("plain", "stored_half"):
        pairs = zip(getattr(base, name).flatten().tolist(), getattr(tuned, name).flatten().tolist(), strict=True)
        wanted = [1.75 * ours - 0.75 * theirs for ours, theirs in pairs]
        assert state[name].dtype == torch.float32
        assert state[name].flatten().tolist() == pytest.approx(wanted, rel=1e-6)
    for name in ("bound", "broken", "mask", "count"):
        assert torch.equal(state[name], getattr(base, name)), "not finite, or a buffer"


def test_no_weight_is_the_base_to_the_bit() -> None:
    base, tuned = Odd(0), Odd(1)
    with torch.no_grad():
        base.plain[0, 0] = -0.0
    state = extrapolated(base, tuned, 0.0)
    for name, tensor in base.state_dict().items():
        assert state[name].numpy().tobytes() == tensor.numpy().tobytes() and state[name].dtype == tensor.dtype


def test_the_merge_goes_away_from_the_tuned_copy() -> None:
    base, tuned = Odd(0), Odd(1)
    distances = [float((extrapolated(base, tuned, w)["plain"] - tuned.plain).detach().norm()) for w in (0, 0.5, 1, 2)]
    step = distances[0]
    assert distances == pytest.approx([step, 1.5 * step, 2 * step, 3 * step], rel=1e-6)


def test_the_best_is_the_smallest_of_the_table_and_the_model_itself_wins_ties() -> None:
    def point(weight: float, guidance: float, frechet: float) -> dict[str, float]:
        return {"weight": weight, "guidance": guidance, "frechet": frechet}

    table = [point(0, 1, 5), point(0, 2, 3), point(1, 1, 4), point(1, 2, 2)]
    assert chosen(table, 1) == {"best": table[3], "best_unchanged": table[1], "unchanged": table[0]}
    table[3] = point(1, 2, 3)
    assert chosen(table, 1)["best"] == table[1]


@pytest.mark.parametrize("kind", ["var", "raster", "rq", "maskgit"])
def test_every_family_with_tokens(kind: str, config: NeonTraining, tmp_path: Path) -> None:
    pipeline = make_pipeline() if kind == "var" else make_baseline(kind, depth=2, heads=2)
    pipeline.save_pretrained(tmp_path / kind)
    report = train_neon(replace(config, model=str(tmp_path / kind), weights=(1,), guidances=(2,)))
    own = pipeline.config.guidance
    assert {(p["weight"], p["steps"], p["guidance"]) for p in report["table"]} == {
        (weight, steps, guidance) for weight, steps in ((0, 0), (1, 2), (1, 4)) for guidance in {own, 2.0}
    }
    out, best = tmp_path / "out", report["best"]
    assert best["frechet"] == min(point["frechet"] for point in report["table"])
    assert read_json(out / "neon.json") == report and (out / "neon.png").is_file()

    cache = open_tokens(out / "tokens")
    assert cache.config.scales == FAMILY_SCALES[kind] and cache.class_names == pipeline.class_names
    assert list(cache.rows["label"][:]) == [i % 3 for i in range(20)]
    drawn = VARPipeline.from_pretrained(tmp_path / kind, device="cpu", dtype="fp32").generate(
        [0, 1, 2], seeds=range(config.seed + 12, config.seed + 32)
    )
    assert torch.equal(cache.batch(range(20))[0].packed, drawn.tokens.packed)  # pyright: ignore[reportArgumentType]

    made = VARPipeline.from_pretrained(out, device="cpu", dtype="fp32")
    assert made.config == replace(pipeline.config, guidance=best["guidance"])
    base, snapshots = load_transformer(tmp_path / kind), [snapshot(out, steps) for steps in (2, 4)]
    assert len({identity(model) for model in (base, *snapshots)}) == 3, "every length has moved"
    wanted = extrapolated(base, snapshots[best["steps"] // 4], best["weight"])
    assert all(torch.equal(value, wanted[name]) for name, value in load_transformer(out).state_dict().items())
    assert not list(out.glob("choosing/*/model")) and not list(out.rglob("features"))


def snapshot(out: Path, steps: int) -> Any:
    return load_transformer(out / "tuning" / "snapshots" / f"{steps:08d}")


def test_samples_tune_the_model_towards_themselves(config: NeonTraining) -> None:
    """The tuned copy finds the samples likelier than the model does, the merged one less likely."""
    train_neon(replace(config, learning_rate=0.1, samples=8, steps=8, batch_size=8, weights=(1,)))
    out = Path(config.out)
    tokenizer, about = load_tokenizer(Path(config.model)), load_config(Path(config.model))
    tokens, labels = open_tokens(out / "tokens").batch(range(8))  # pyright: ignore[reportArgumentType]

    def likelihood(state: dict[str, torch.Tensor]) -> float:
        merged = VARPipeline(tokenizer, module_from_state(VAR, start.config, state), about)
        return float(merged.log_likelihood(tokens, labels.tolist()).mean())

    start, tuned = load_transformer(Path(config.model)), snapshot(out, 8)
    likelihoods = [likelihood(extrapolated(start, tuned, weight)) for weight in (-1, 0, 1)]
    assert likelihoods[0] > likelihoods[1] > likelihoods[2], "w -1 is the tuned copy"


def stop_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: int) -> None:
    """Interrupt the call of that number of a function, as Ctrl-C would."""
    original, calls = getattr(module, name), []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, stopping)


STOPS: tuple[tuple[Any, str, int], ...] = (
    (neon, "draw_shard", 1),  # before the first samples
    (neon, "draw_shard", 2),  # behind a shard
    (neon, "finish", 1),  # all drawn, not counted
    (neon, "train", 1),
    (neon, "save_model", 1),  # before the first snapshot, which its checkpoint makes again
    (neon, "save_model", 2),
    (neon_choice, "write_merged", 2),
    (sampled, "draw_shard", 2),  # within the figures of a candidate
    (neon_choice, "write_json", 1),  # all drawn, not reported
    (neon_choice, "plot_table", 1),  # before the export
)
"""Where a run is stopped, one after the other: at which call of which function since it was continued."""


@pytest.fixture
def brief(config: NeonTraining) -> NeonTraining:
    """Three candidates at one guidance."""
    return replace(config, weights=(1,), guidances=(2,))


@pytest.fixture
def whole(brief: NeonTraining) -> dict[str, bytes]:
    """What a run makes that nobody stops."""
    train_neon(replace(brief, out=brief.out + "-whole"))
    return contents(Path(brief.out + "-whole"))


def test_a_run_continues_exactly_wherever_it_is_stopped(brief: NeonTraining, whole: dict[str, bytes]) -> None:
    assert len(whole) > 8
    for stop in STOPS:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at(patch, *stop)
            train_neon(brief, resume=True)
    assert not (Path(brief.out) / "model").exists()
    with pytest.raises(ValueError, match="holds a run already; add --resume"):
        train_neon(brief)
    train_neon(brief, resume=True)
    assert contents(Path(brief.out)) == whole


def test_a_signal_while_tuning_saves_and_continues_exactly(
    brief: NeonTraining, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="stopped at step 2 of 4"):
        interrupt_at(patch, 2)
        train_neon(brief)
    train_neon(brief, resume=True)
    assert contents(Path(brief.out)) == whole
    train_neon(brief, resume=True)
    assert contents(Path(brief.out)) == whole, "nothing is left to do"


@pytest.mark.parametrize("names", [(), ("crane", "green", "crane")], ids=["no names", "one name twice"])
def test_classes_are_the_models_own(names: tuple[str, ...], config: NeonTraining, tmp_path: Path) -> None:
    """ImageNet has two classes of one name; the tuned copy starts from the row of each."""
    pipeline = make_pipeline()
    pipeline.config = replace(pipeline.config, class_names=names)
    pipeline.save_pretrained(tmp_path / "named")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(Path(config.data).rglob("*.png"))):
        file.rename(flat / f"{number:03d}.png")
    own = replace(config, model=str(tmp_path / "named"), data=str(flat), weights=(1,), learning_rate=1e-9)
    train_neon(own)
    tuned = snapshot(tmp_path / "out", 4)
    rows, before = tuned.class_embedding.weight, pipeline.transformer.class_embedding.weight
    assert torch.allclose(rows, before, atol=1e-6)
    assert load_config(tmp_path / "out").class_names == names


def test_a_model_that_draws_its_last_map_in_passes(config: NeonTraining, tmp_path: Path) -> None:
    pipeline = make_pipeline(refinable=True)
    pipeline.config = replace(pipeline.config, refine_steps=2)
    pipeline.save_pretrained(tmp_path / "passes")
    report = train_neon(replace(config, model=str(tmp_path / "passes"), weights=(1,), guidances=(2,)))
    assert report["sampling"]["refine_steps"] == load_config(tmp_path / "out").refine_steps == 2
    assert read_json(tmp_path / "out" / "tuning" / "config.json")["masked_last"] == 0.5
    settings = read_json(tmp_path / "out" / "choosing" / "unchanged" / "guidance-2" / "settings.json")
    assert settings["sampling"]["refine_steps"] == 2


def test_a_model_without_classes(config: NeonTraining, tmp_path: Path) -> None:
    make_pipeline(classes=0).save_pretrained(tmp_path / "free")
    train_neon(replace(config, model=str(tmp_path / "free"), weights=(1,), guidances=()))
    cache = open_tokens(tmp_path / "out" / "tokens")
    assert cache.class_names == () and set(cache.rows["label"][:].tolist()) == {-1}


def refusals(config: NeonTraining, tmp_path: Path) -> Iterator[tuple[NeonTraining, str]]:
    make_baseline("dit").save_pretrained(tmp_path / "dit")
    yield replace(config, model=str(tmp_path / "dit")), r"draws no tokens to tune on; it is diffusion \(DiT\)"
    yield replace(config, model="nowhere"), "model 'nowhere' is not known"
    yield replace(config, data=str(tmp_path / "nowhere")), "there is no such file or folder"
    yield replace(config, features="nothing"), "nothing"
    other = make_pipeline()
    other.config = replace(other.config, class_names=("a", "b", "c"))
    other.save_pretrained(tmp_path / "other")
    yield replace(config, model=str(tmp_path / "other")), "blue"


def test_what_cannot_work_is_refused_and_nothing_is_written(config: NeonTraining, tmp_path: Path) -> None:
    for wrong, message in refusals(config, tmp_path):
        with pytest.raises(ValueError, match=message) as error:
            train_neon(wrong)
        assert "\n" not in str(error.value)
        assert not Path(config.out).exists()
    Path(config.out).mkdir()
    (Path(config.out) / "mine.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        train_neon(config, resume=True)
    assert [file.name for file in Path(config.out).iterdir()] == ["mine.txt"]
    for about in ({"command": "var"}, {}):  # earlier versions wrote none
        run = replace(config, out=str(tmp_path / "var"))
        write_json(tmp_path / "var" / "config.json", {"data": "d", "out": "o", "steps": 4})
        write_json(tmp_path / "var" / "run.json", about)
        with pytest.raises(ValueError, match="is another run than one of train neon"):
            train_neon(run, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"weights": (-1.0,)}, "weights must be numbers from 0"),
        ({"weights": (float("nan"),)}, "weights must be numbers from 0"),
        ({"guidances": (1e9,)}, "guidance must be a number"),
        ({"steps": 1}, "2 lengths need as many steps"),
        ({"precision": "int8"}, "precision 'int8' is not known"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"seed": 2**63 - 2}, "leaves no seeds for 32 images"),
    ],
)
def test_settings_out_of_range(config: NeonTraining, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **change)


def test_a_run_continues_with_what_it_began_with(config: NeonTraining, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, neon, "draw_shard", 2)
        train_neon(config)
    before = {path: path.read_bytes() for path in Path(config.out).rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="another samples: it was 20, now 21"):
        train_neon(replace(config, samples=21), resume=True)
    make_pipeline(1).save_pretrained(Path(config.model))
    with pytest.raises(ValueError, match="its model is not what it began with"):
        train_neon(config, resume=True)
    assert {path: path.read_bytes() for path in Path(config.out).rglob("*") if path.is_file()} == before


def test_what_is_tried_where_nothing_is_named(config: NeonTraining) -> None:
    plain = NeonTraining(model="m", data="d", out="o")
    assert plain.tuned_steps == (62, 124, 186), "about two passes over 6,000 samples"
    assert replace(plain, steps=10).tuned_steps == (3, 6, 9) and config.tuned_steps == (2, 4)
    assert plain.tried_guidances(1.3) == (0.65, 1.3, 1.95, 2.6)
    assert plain.tried_guidances(2.0) == (1, 2, 3, 4) and plain.tried_guidances(0.0) == (0, 0.5, 1, 2)
    assert config.tried_guidances(1.5) == (0, 1.5, 2) and config.tried_weights() == (0, 1, 2)
