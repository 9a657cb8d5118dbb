"""`nextscale generate`: class-conditional images, a grid and a manifest."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cli.options import ConfigFile, SamplingFlags, accepts, settle
from nextscale.cli.outputs import counted, file_hash, results_folder, write_manifest
from nextscale.config import require_at_least, require_seed
from nextscale.files import write_json

if TYPE_CHECKING:
    from nextscale.pipeline import ClassLike, Generation, VARPipeline

GRID_IMAGES = 256
"""Images the grid shows at most."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingFlags):
    """Settings of `nextscale generate`."""

    model: str = "demo"
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
    "Images at once; 0 takes as many as keep keys and values within 0.25 GB (8 on CUDA), at most 16."
    candidates: int = 1
    "Rejection sampling: candidates drawn of each image."
    keep: int = 1
    "Best candidates kept of each image."
    judge: str = "likelihood"
    "Who scores candidates: likelihood or likelihood-ratio (the model), a torchvision classifier, or the file of one."
    compile: bool = False
    "Compile the model first: for many images on a GPU; on CPU it gains nothing."
    json: str = ""
    "File for the results."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "count", "candidates", "keep")
        require_at_least(self, 0, "batch_size")
        require_seed(self.seed, count=self.count)


@accepts(GenerateOptions, first=("model", "classes", "count", "seed", "out"))
def generate(*, config: ConfigFile = "", given: Any = None) -> None:
    """Generate images; without options, 16 of the demo model."""
    options = settle(GenerateOptions, given, file=config)
    from nextscale.sampling.rejection import Rejection

    options.sampling()  # complain before a large model is loaded
    Rejection(candidates=options.candidates, keep=options.keep)
    from nextscale.runtime import retain_freed_memory

    began = time.monotonic()
    with results_folder(Path(options.out), options.count) as folder:
        from nextscale.pipeline import VARPipeline

        pipeline = VARPipeline.from_pretrained(options.model, device=options.device, dtype=options.precision)
        retain_freed_memory()  # not before: what loading frees should go back
        if options.compile:
            pipeline.compile()
        entries = write_images(pipeline, options, folder)
    seconds = time.monotonic() - began
    if options.json:
        facts = {"precision": pipeline.precision, "device": str(pipeline.device), "seconds": round(seconds, 3)}
        write_json(Path(options.json), {"out": options.out} | facts | {"images": entries})
    how = f"{pipeline.precision} on {pipeline.device}"
    if entries[0].get("about"):
        print(entries[0]["about"])
    print(f"{counted(len(entries), 'image')} in {seconds:.1f} s ({how}): {Path(options.out) / 'grid.png'}")


def write_images(pipeline: VARPipeline, options: GenerateOptions, folder: Path) -> list[dict[str, Any]]:
    """Generate batch by batch into a folder; returns the manifest's entries."""
    from nextscale.pictures import sheet
    from nextscale.progress import Progress
    from nextscale.sampling.rejection import load_rejection

    sampling = pipeline.sampling(**options.sampling())
    settings = asdict(sampling) | {"precision": pipeline.precision}
    known = pipeline.transformer.config.classes
    rejection = load_rejection(
        options.candidates, options.keep, options.judge, classes=known, class_names=pipeline.config.class_names
    )
    if rejection is not None:
        settings |= {"candidates": options.candidates, "judge": options.judge}
    classes = pipeline.class_ids(chosen_classes(pipeline, options.classes))
    progress = Progress(options.count, title="images", line_seconds=10)
    entries: list[dict[str, Any]] = []
    shown = []
    try:
        batch_size = options.batch_size or pipeline.default_batch_size
        at_once = max(1, batch_size // options.candidates)
        for start in range(0, options.count, at_once):
            numbers = range(start, min(start + at_once, options.count))
            batch = pipeline.generate(
                [pipeline.class_or_none(classes[number % len(classes)]) for number in numbers],
                seeds=[options.seed + number for number in numbers],
                batch_size=batch_size,
                config=sampling,
                rejection=rejection,
            )
            entries += write_batch(pipeline, batch, len(entries), folder, options.model, settings)
            shown += batch.images[: GRID_IMAGES - len(shown)]
            progress.advance(numbers.stop)
    finally:
        progress.close()
    sheet(shown, [entry["class"] or "" for entry in entries[: len(shown)]]).save(folder / "grid.png")
    write_manifest(folder, entries)
    return entries


def write_batch(
    pipeline: VARPipeline, batch: Generation, first: int, folder: Path, model: str, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Save a batch's images; one manifest entry each."""
    from nextscale.catalogue import ABOUT

    about = {"about": ABOUT[model]} if model in ABOUT else {}
    entries = []
    for row, (image, label, seed) in enumerate(zip(batch.images, batch.classes, batch.seeds, strict=True)):
        path = folder / f"{first + row:06d}.png"
        image.save(path)
        name = pipeline.class_names[label] if label < len(pipeline.class_names) else None
        entry = {"file": path.name, "class": name, "class_id": label if name is not None else None, "seed": seed}
        if batch.scores is not None:
            entry["score"] = batch.scores[row]
        entries.append(entry | {"settings": settings, "model": model} | about | {"sha256": file_hash(path)})
    return entries


def chosen_classes(pipeline: VARPipeline, text: str) -> list[ClassLike]:
    """Classes from text: all, none, or names and ids with commas."""
    count = pipeline.transformer.config.classes
    if text == "all":
        return list(range(count)) or [None]
    if text == "none" and "none" not in pipeline.class_names:
        return [None]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("--classes is empty; expected names or ids with commas, all, or none")
    return list(parts)
