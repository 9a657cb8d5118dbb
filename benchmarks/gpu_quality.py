"""Next-scale prediction trained in several ways, beside raster order, and a larger model for the demo, on one GPU.

    sh benchmarks/gpu_quality.sh OUT [--rehearse]

Frames as in gpu_families.py; tokenizers too, where .gpu/tokenizers does not hold them. Then all of these train side by
side: the `VARIANTS`, with the same images and parameters; each decoder alone, with perfect and with disturbed codes
(transformers need not know); and the demo's transformer, at a constant rate, until it is time to measure. The
baseline of both families is trained with more images where there is time for that. What fails is left out and said.
OUT/reports.tar.gz holds a comparison for each model, at the end and on the way; models come back in parts, `cat
models.tar.part-* | tar x`, each an archive of its own.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from gpu_families import FAMILIES, FOLLOWED, coders, scaled, small_data, tokenise, train_tokenizers
from gpu_families import Plan as FamiliesPlan
from gpu_frames import arrays, submit
from gpu_runs import ROOT, Clock, Run, all_of, finish, nextscale, random_features
from nextscale.config import read_json
from nextscale.files import write_json

VARIANTS = {
    "var": {},
    "var-correct": {"self-correct": "0.3"},
    "var-scale": {"attention": "scale"},
    "var-masked": {"masked-last": "0.5"},
    "raster": {},
}
"""Settings of each training, those of `TRAINING` aside; the family is the name's first word."""
TRAINING = {"depth": "5", "ema": "0.999", "final": "0.02", "flat": "0.1", "top-k": "0", "top-p": "0.95"}
STEPS = 2048
"""Of each variant."""
LONG, SHORT = 6144, 3072
"""Steps of the baselines that are trained longer, at most and at least."""
DEMO = {"depth": "6", "ema": "0.9995", "final": "1", "warmup": "0.004"}
DEMO_STEPS = 100_000
"""More than there is time for: it is stopped, and its last export comes back."""
DECODERS = {
    "plain": {},
    "disturbed": {"disturb": "0.5", "disturb-tokens": "0.5", "disturb-tokens-end": "0.2", "disturb-codes": "20"},
}
"""Settings of the decoders' trainings."""
REHEARSED = ("var-masked", "growing-disturbed", "demo")
MEASURING, LEAST = 150, 60
"""Seconds kept for the comparisons, and what they get where the trainings are late."""
PART = 15 * 2**20
"""Bytes of a part of the models."""
ROOM = 58 * 2**20
"""Bytes of all parts together."""
BROUGHT = ("demo", "growing-disturbed", "raster", "var-masked", "single-disturbed")
"""The models that come back, in this order, as far as they fit."""


@dataclass
class Plan(FamiliesPlan):
    """Sizes of one call."""

    @property
    def batch(self) -> int:
        return 8 if self.rehearse else 128

    @property
    def per_class(self) -> int:
        return 16 if self.rehearse else 49_152

    @property
    def kinds(self) -> tuple[str, ...]:
        return FOLLOWED[:1] if self.rehearse else FOLLOWED

    @property
    def pictures(self) -> tuple[int, int]:
        return (8, 8) if self.rehearse else (2048, 320)

    @property
    def coding(self) -> tuple[int, int]:
        return (2, 4) if self.rehearse else (1000, 16)


def main(
    out: Path,
    *,
    seconds: float = 540,
    rehearse: bool = False,
    device: str = "",
    work: Annotated[Path, cyclopts.Parameter(help="Folder for data and runs.")] = ROOT / "build" / "gpu-quality",
    weights: Annotated[Path, cyclopts.Parameter(help="torchvision's MobileNetV2.")] = Path(".gpu/mobilenet_v2.pth"),
    tokenizers: Annotated[Path, cyclopts.Parameter(help="Trained ones: growing, single.")] = Path(".gpu/tokenizers"),
    cores: Annotated[int, cyclopts.Parameter(help="Processes that render.")] = 12,
) -> None:
    """Render, train and compare within so many seconds."""
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")  # many trainings compile at once
    where = device or ("cpu" if rehearse else "cuda")
    plan = Plan(out.resolve(), work.resolve(), Clock(seconds), where, rehearse, weights.resolve())
    if rehearse:
        plan.procgen, plan.weights = False, random_features(plan.work)
    with ProcessPoolExecutor(2 if rehearse else cores) as pool:
        all_of(submit(pool, small_data(plan)))
        plan.clock.say("pictures")
        frames = submit(pool, arrays(plan.work / "frames", plan.per_class, side=64, procgen=plan.procgen))
        if tokenizers.exists() and not rehearse:
            shutil.copytree(tokenizers, plan.work / "tokenizers", dirs_exist_ok=True)
        else:
            train_tokenizers(plan)
        plan.clock.say("tokenizers")
        all_of(frames)
        plan.clock.say("frames")
    tokenise(plan)
    plan.clock.say("tokens")
    runs = train_all(plan)
    plan.clock.say("trainings")
    waiting = comparisons(plan, runs)
    bring_models(plan, runs)
    plan.clock.say("models")
    for failure in finish(waiting, plan.clock, reserve=12):
        print(failure, flush=True)
    bring_reports(plan, runs)
    plan.clock.say("comparisons")


def trainings(plan: Plan) -> dict[str, Run]:
    """Transformers, then decoders."""
    settings = VARIANTS | {f"{kind}-long": {} for kind in FOLLOWED} | {"demo": {} if plan.rehearse else DEMO}
    found = {name: transformer(plan, name, TRAINING | some) for name, some in settings.items()}
    for coder, run in coders(plan).items():
        found |= {f"{coder}-{name}": decoder(plan, f"{coder}-{name}", run, some) for name, some in DECODERS.items()}
    return {name: found[name] for name in REHEARSED} if plan.rehearse else found


def transformer(plan: Plan, name: str, settings: dict[str, str]) -> Run:
    """A training of stage 2."""
    kind = "raster" if name.startswith("raster") else "var"
    coder, rate, _ = FAMILIES[kind]
    tokens = plan.work / "tokens" / coder
    if plan.rehearse:
        settings = settings | {"depth": "2"}
    arguments = (
        kind, "--preset", "small", *flags(settings), "--tokenizer", str(plan.work / "tokenizers" / coder),
        "--data", str(tokens / "train"), "--heldout", str(tokens / "heldout"), "--batch-size", str(plan.batch),
        "--learning-rate", scaled(rate, plan.batch), "--export", "bf16", "--device", plan.device,
        *(() if plan.rehearse else ("--compile",)),
    )  # fmt: skip
    measurements = DEMO_STEPS // 1000 if name == "demo" else 4 if name.endswith("-long") else 1
    return Run(arguments, plan.work / "models" / name, plan.log, measurements=measurements)


def decoder(plan: Plan, name: str, coder: Run, settings: dict[str, str]) -> Run:
    """A training of a tokenizer's decoder, by the recipe of the tokenizers."""
    data, batch = plan.work / "data", 4 if plan.rehearse else 64
    arguments = (
        "tokenizer", "--init-from", str(coder.out), "--decoder-only", "--data", str(data / "train"),
        "--heldout", str(data / "heldout"), "--batch-size", str(batch), "--learning-rate", scaled(2.2e-3, batch),
        "--l1", "1", "--l2", "4", "--perceptual", "0.4", "--perceptual-shift", "4", "--seed", "4", *flags(settings),
        "--perceptual-weights", str(plan.weights), "--export", "bf16", "--device", plan.device,
    )  # fmt: skip
    return Run(arguments, plan.work / "models" / name, plan.log)


def flags(settings: dict[str, str]) -> list[str]:
    """Settings as flags of the command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def train_all(plan: Plan) -> dict[str, Run]:
    """Train all side by side until it is time to measure; returns those that have a model."""
    runs, began = trainings(plan), plan.clock.passed()
    short = {name: run for name, run in runs.items() if not name.endswith("-long")}
    waiting = {name: run.start(steps_of(plan, name)) for name, run in short.items()}
    variants, later = [waiting[name] for name in VARIANTS if name in waiting], False
    while plan.clock.left() > LEAST:
        time.sleep(0.5)
        keep_models(plan, runs)
        if all(process.poll() for process in waiting.values()):  # a status other than 0
            break
        busy = any(process.poll() is None for name, process in waiting.items() if name != "demo")
        if not later and all(process.poll() is not None for process in variants):
            later, steps = True, fitting(plan, plan.clock.passed() - began)
            plan.clock.say(f"variants; longer trainings: {steps} steps")
            if steps:
                waiting |= {name: runs[name].start(steps) for name in runs if name not in short}
        elif not busy and (plan.rehearse or plan.clock.left() < MEASURING):
            break
    for failure in finish(waiting.values(), plan.clock, reserve=plan.clock.left()):
        print(failure, flush=True)
    done = {name: run for name, run in runs.items() if (run.out / "model").exists()}
    if not done:
        raise SystemExit(plan.log.read_text(errors="replace")[-6000:])
    return done


def steps_of(plan: Plan, name: str) -> int:
    """Steps of a training of the first round."""
    if plan.rehearse:
        return 2000 if name == "demo" else 4
    return DEMO_STEPS if name == "demo" else STEPS if name in VARIANTS else 600


def fitting(plan: Plan, passed: float) -> int:
    """Steps for which there is time when the slowest of the variants took `passed` seconds; 0 for less than `SHORT`.

    Three trainings run then instead of ten: they are taken to be twice as fast.
    """
    steps = min(LONG, int(0.9 * (plan.clock.left() - MEASURING) * 2 * STEPS / passed))
    return 0 if plan.rehearse or steps < SHORT else steps


def keep_models(plan: Plan, runs: dict[str, Run]) -> None:
    """Copies of what the longer trainings export on the way, as NAME-IMAGES."""
    for name in (f"{kind}-long" for kind in FOLLOWED):
        about = runs[name].out / "model" / "config.json" if name in runs else Path("none")
        steps = read_json(about)["trained_steps"] if about.exists() else 0
        kept = plan.work / "kept" / f"{name}-{steps * plan.batch}"
        if steps and not kept.exists():
            with suppress(OSError):  # while the next one takes its place
                shutil.copytree(about.parent, kept)


def comparisons(plan: Plan, runs: dict[str, Run]) -> list[Any]:
    """Start a comparison with real images for each model at its end, with each decoder, and on the way."""
    steps = {name: read_json(run.out / "model" / "config.json")["trained_steps"] for name, run in runs.items()}
    images = {name: steps[name] * run.batch for name, run in runs.items()}
    write_json(plan.out / "reports" / "about.json", {"images": images, "data": "Procgen" if plan.procgen else "shapes"})
    ends = [name for name, run in runs.items() if run.arguments[0] != "tokenizer"]
    waiting = [compare(plan, name, runs[name].out / "model", "1,2.5,4", sets=2) for name in ends]
    for kind, coder in (("var", "growing"), ("raster", "single"), ("demo", "growing")):
        for name in DECODERS:
            if kind in runs and f"{coder}-{name}" in runs:
                model = joined(plan, runs[kind], runs[f"{coder}-{name}"], f"{kind}-{name}")
                waiting.append(compare(plan, model.name, model, "1,2.5,4", sets=2))
    for model in () if plan.rehearse else sorted((plan.work / "kept").glob("*-*")):
        waiting.append(compare(plan, model.name, model, "1,3", sets=1))
    return waiting


def compare(plan: Plan, name: str, model: Path, guidances: str, *, sets: int) -> Any:
    """Start `nextscale compare` of one model."""
    count, tuning, batch = ("8", "8", "8") if plan.rehearse else ("2000", "500", "250")
    arguments = [
        "--data", plan.work / "data" / "heldout", "--features", "mobilenet_v2", "--feature-weights", plan.weights,
        "--count", count, "--sets", "1" if plan.rehearse else str(sets), "--rounds", "1", "--tuning-count", tuning,
        "--guidances", "0,1" if plan.rehearse else guidances, "--precision", "fp32" if plan.rehearse else "bf16",
        "--device", plan.device, "--batch-size", batch, "--out", plan.work / "comparisons" / name,
        "--json", plan.out / "reports" / f"{name}.json",
    ]  # fmt: skip
    return nextscale("compare", model, *arguments, log=plan.log)


def joined(plan: Plan, model: Run, coder: Run, name: str) -> Path:
    """A model with another decoder."""
    folder = plan.work / "joined" / name
    if not folder.exists():
        shutil.copytree(model.out / "model", folder)
        shutil.rmtree(folder / "tokenizer")
        shutil.copytree(coder.out / "model" / "tokenizer", folder / "tokenizer")
    return folder


def bring_reports(plan: Plan, runs: dict[str, Run]) -> None:
    """Reports, curves, pictures and what the commands said in one file."""
    with tarfile.open(plan.out / "reports.tar.gz", "w:gz") as file:
        file.add(plan.out / "reports", "reports")
        for name, run in runs.items():
            for path in (run.out / "metrics.jsonl", *sorted((run.out / "samples").glob("*.png"))[-1:]):
                file.add(path, f"{name}/{path.name}")
        for path in (plan.work / "comparisons").glob("*/samples.png"):
            file.add(path, f"comparisons/{path.parent.name}.png")
        file.add(plan.log, plan.log.name)
    shutil.rmtree(plan.out / "reports")
    plan.log.unlink()


def bring_models(plan: Plan, runs: dict[str, Run]) -> None:
    """Models in parts, the ones that matter most first; what does not fit is said.

    Transformers come without their tokenizer, which several share: that of `growing-*` or `single-*`.
    """
    chosen = [runs[name] for name in BROUGHT if name in runs]
    with ThreadPoolExecutor(len(chosen)) as pool:
        files = list(pool.map(packed, chosen))
    joined = plan.work / "models.tar"
    with tarfile.open(joined, "w") as file:
        room = ROOM
        for path in files:
            room -= path.stat().st_size
            if room > 0:
                file.add(path, path.name)
            else:
                print(f"{path.name}: {path.stat().st_size >> 20} MiB do not fit any more", flush=True)
    content = joined.read_bytes()
    for number in range(0, len(content), PART):
        (plan.out / f"models.tar.part-{number // PART}").write_bytes(content[number : number + PART])


def packed(run: Run) -> Path:
    """A model's own part as an archive; bf16 weights shrink by a third."""
    part = "tokenizer" if run.arguments[0] == "tokenizer" else "transformer"
    path = run.out.with_suffix(".tar.xz")
    with tarfile.open(path, "w:xz", preset=6) as file:
        for name in ("config.json", part):
            file.add(run.out / "model" / name, f"{run.out.name}/{name}")
    return path


if __name__ == "__main__":
    cyclopts.run(main)
