"""`nextscale generate`: images of classes or prompts, a grid and a manifest."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cli.options import ConfigFile, ResultsFile, accepts, settle
from nextscale.cli.outputs import GRID, counted, results_folder, write_manifest, write_results
from nextscale.cli.wanted import PromptFlags, told, wanted
from nextscale.config import require_at_least, require_seed
from nextscale.files import file_hash
from nextscale.settings import DEMO, PairFlags, ScaleFlags

if TYPE_CHECKING:
    from PIL.Image import Image

    from nextscale.pipeline import Generation, VARPipeline
    from nextscale.sampling.next_scale import SamplingConfig
    from nextscale.sampling.rejection import Rejection

GRID_IMAGES = 256
"""Images the grid shows at most."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(PromptFlags, PairFlags, ScaleFlags, ResultsFile):
    """Settings of `nextscale generate`."""

    model: str = DEMO
    "demo, a model or run folder, or a hub id."
    classes: str = "all"
    "Class names or ids with commas, all, or none (unconditional). Image i has class i mod n."
    count: int = 16
    "Images to generate."
    seed: int = 0
    "Seed of the first image; image i has seed + i."
    out: str = "out/generate"
    "Folder for 000000.png ..., grid.png and manifest.jsonl."
    temperature: float = 1.0
    "Divides the logits."
    smooth: bool = False
    "Soft mixtures of codes: smoother pictures, not for metrics."
    steps: int = 0
    "Steps of masked prediction and diffusion; 0 takes the model's. Other kinds have theirs."
    batch_size: int = 0
    "Images at once; 0 takes at most 16 whose keys and values fit 0.25 GB; on CUDA at most 64 that find room."
    candidates: int = 1
    "Rejection sampling: candidates drawn of each image."
    keep: int = 1
    "Best candidates kept of each image."
    judge: str = "likelihood"
    "Who scores candidates: likelihood or likelihood-ratio (the model), a torchvision classifier, or the file of one."
    compile: bool = False
    "Compile the model first: for many images on a GPU; on CPU it gains nothing."
    graphs: bool = True
    "Run as CUDA graphs: faster on CUDA, without effect elsewhere."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "count", "candidates", "keep")
        require_at_least(self, 0, "batch_size")
        require_seed(self.seed, count=self.count)


MAIN = ("model", "draft", "refine", "switch", "classes", "prompt", "prompts", "negative_prompt", "count", "seed", "out")


@accepts(GenerateOptions, first=MAIN)
def generate(*, config: ConfigFile = "", given: Any = None) -> None:
    """Generate images; without options, 16 of the demo model."""
    options = settle(GenerateOptions, given, file=config)
    model = options.model_or_pair(options.model)
    from nextscale.pictures import sheet
    from nextscale.progress import Progress
    from nextscale.sampling.rejection import Rejection

    options.sampling()  # complain before a large model is loaded
    Rejection(candidates=options.candidates, keep=options.keep)
    began = time.monotonic()
    with results_folder(Path(options.out), options.count) as folder:
        pipeline = load_pipeline(model, options.device, options.precision)
        pipeline.use_graphs(options.graphs)
        if options.compile:
            pipeline.compile()
        sampling = pipeline.sampling(**options.sampling())
        rejection = chosen_rejection(pipeline, options.candidates, options.keep, options.judge)
        facts = manifest_facts(pipeline, options, model, sampling)
        named = wanted(pipeline, options, options.classes, "all")
        seeds = range(options.seed, options.seed + options.count)
        entries: list[dict[str, Any]] = []
        shown: list[Image] = []
        names: list[str] = []
        with closing(Progress(options.count, title="images", line_seconds=10)) as progress:
            for batch in pipeline.generate_batches(
                named,
                seeds=seeds,
                batch_size=options.batch_size,
                config=sampling,
                rejection=rejection,
                negative_prompt=options.negative_prompt,
            ):  # pictures are on disk before the next ones are made
                entries += write_batch(pipeline, batch, len(entries), folder, facts)
                shown += batch.images[: GRID_IMAGES - len(shown)]
                names += [name or "" for name in pipeline.names_of(batch)]
                progress.advance(len(entries) // options.keep)
        sheet(shown, names[: len(shown)]).save(folder / GRID)
        write_manifest(folder, entries)
    report(pipeline, options, entries, time.monotonic() - began)


def load_pipeline(model: str, device: str, precision: str) -> VARPipeline:
    """The model of a command."""
    from nextscale.pipeline import VARPipeline
    from nextscale.runtime import retain_freed_memory

    pipeline = VARPipeline.from_pretrained(model, device=device, dtype=precision)
    retain_freed_memory()  # not before: what loading frees should go back
    return pipeline


def chosen_rejection(pipeline: VARPipeline, candidates: int, keep: int, judge: str) -> Rejection | None:
    """Rejection sampling as flags ask for it; None for one candidate. Raises ValueError."""
    from nextscale.sampling.rejection import load_rejection

    known = pipeline.transformer.config.classes
    return load_rejection(candidates, keep, judge, classes=known, class_names=pipeline.config.class_names)


def manifest_facts(
    pipeline: VARPipeline, options: GenerateOptions, model: str, sampling: SamplingConfig
) -> dict[str, Any]:
    """What the manifest says of every image: its settings, its model, and what a known model draws."""
    from nextscale.catalogue import ABOUT

    settings = asdict(sampling) | {"precision": pipeline.precision}
    if options.negative_prompt:
        settings |= {"negative_prompt": options.negative_prompt}
    if options.candidates > 1:
        settings |= {"candidates": options.candidates, "judge": options.judge}
    about = {"about": ABOUT[model]} if model in ABOUT else {}
    return {"settings": settings, "model": model} | about


def write_batch(
    pipeline: VARPipeline, batch: Generation, first: int, folder: Path, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Save a batch's images; one manifest entry each."""
    entries = []
    for row, (image, shows, seed) in enumerate(zip(batch.images, told(pipeline, batch), batch.seeds, strict=True)):
        path = folder / f"{first + row:06d}.png"
        image.save(path)
        entry = {"file": path.name} | shows | {"seed": seed}
        score = {} if batch.scores is None else {"score": batch.scores[row]}
        entries.append(entry | score | facts | {"sha256": file_hash(path)})
    return entries


def report(pipeline: VARPipeline, options: GenerateOptions, entries: list[dict[str, Any]], seconds: float) -> None:
    """Write the JSON asked for, and say what was made."""
    facts = {"precision": pipeline.precision, "device": str(pipeline.device), "seconds": round(seconds, 3)}
    write_results(options.json, {"out": options.out} | facts | {"images": entries})
    if entries[0].get("about"):
        print(entries[0]["about"])
    how = f"{pipeline.precision} on {pipeline.device}"
    print(f"{counted(len(entries), 'image')} in {seconds:.1f} s ({how}): {Path(options.out) / GRID}")
