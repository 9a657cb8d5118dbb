"""`nextscale edit`: in-painting, out-painting, other classes, larger images."""

from __future__ import annotations

import glob
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextscale.cli.generate import chosen_rejection, load_pipeline
from nextscale.cli.options import ConfigFile, ResultsFile, accepts, settle
from nextscale.cli.outputs import counted, named, write_results
from nextscale.cli.wanted import PromptFlags, told, wanted
from nextscale.config import require_at_least, require_seed
from nextscale.editing.config import EditConfig
from nextscale.settings import ScaleFlags

if TYPE_CHECKING:
    from PIL.Image import Image

    from nextscale.editing.apply import Editor
    from nextscale.pipeline import VARPipeline
    from nextscale.results import Generation

AUTO = "auto"
"""As `--classes`: the class under which what is kept is likeliest."""
ImageFile = Annotated[str, Parameter(help="Image file.")]
MAIN = ("mask", "boxes", "expand", "classes", "prompt", "prompts", "negative_prompt", "count", "seed", "out", "model")
"""What the help of every edit shows first, as far as it has it."""


@dataclass(frozen=True, kw_only=True)
class EditOptions(PromptFlags, ScaleFlags, EditConfig, ResultsFile):
    """Settings that all edits share."""

    model: str = "demo"
    "demo, var-d16 ... var-d36, a model or run folder, or a hub id."
    classes: str = AUTO
    "Class names or ids with commas, none, or auto: the class under which what is kept is likeliest."
    out: str = "out/edit.png"
    "PNG file for the result; variations beyond one get numbers before the suffix."
    guidance: float | None = None
    "Classifier-free guidance; 0 is off [default: the model's; for auto classes, times the squared share made anew]"
    count: int = 1
    "Variations; variation i has seed + i and class i mod n."
    seed: int = 0
    "Seed of the first variation."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "count")
        require_seed(self.seed, count=self.count)
        if Path(self.out).suffix.lower() != ".png":
            raise ValueError(f"--out {self.out}: expected a file that ends in .png")


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(EditOptions):
    """Settings of `edit inpaint`."""

    mask: str = ""
    "Mask image: white, or transparent, is regenerated."
    boxes: str = ""
    "Boxes to regenerate, left,top,right,bottom in pixels, several with semicolons."
    candidates: int = 1
    "Candidates drawn of each variation, the best of which is kept."
    judge: str = "likelihood"
    "Who scores candidates: likelihood or likelihood-ratio (the model), a torchvision classifier, or the file of one."
    strips: bool = False
    "Also write OUT-strips.png: the image, the hole, and the result as it stands after each scale."


@dataclass(frozen=True, kw_only=True)
class ClassOptions(InpaintOptions):
    """Settings of `edit class`."""

    keep_scales: int = 1
    "First scales taken over from the original: more keep more of its composition."


@dataclass(frozen=True, kw_only=True)
class OutpaintOptions(EditOptions):
    """Settings of `edit outpaint`."""

    expand: str
    "Pixels to add at each side, such as left=32,right=32,top=0,bottom=16."


@accepts(InpaintOptions, first=MAIN)
def inpaint(image: ImageFile, *, config: ConfigFile = "", given: Any = None) -> None:
    """Regenerate what a mask covers; the rest stays to the pixel."""
    options = settle(InpaintOptions, given, file=config)
    if bool(options.mask) == bool(options.boxes):
        raise ValueError("name what to regenerate, with either --mask or --boxes")
    inpaint_image(image, options)


@accepts(ClassOptions, first=MAIN)
def edit_class(image: ImageFile, *, config: ConfigFile = "", given: Any = None) -> None:
    """Turn an image, or what a mask covers, into another class."""
    options = settle(ClassOptions, given, file=config)
    if options.mask and options.boxes:
        raise ValueError("give --mask or --boxes, not both; neither changes the whole image")
    inpaint_image(image, options)


@accepts(OutpaintOptions, first=MAIN, hidden=("keep_scales",))
def outpaint(image: ImageFile, *, config: ConfigFile = "", given: Any = None) -> None:
    """Add pixels at the sides of an image."""
    options = settle(OutpaintOptions, given, file=config)
    from nextscale.editing.enlarge import parse_expansion

    expansion = parse_expansion(options.expand)
    picture, pipeline = load(image, options)
    result = pipeline.outpaint(picture, **vars(expansion), **request(pipeline, options))
    write(result, options, pipeline, {"image": image, "expand": options.expand})


@accepts(EditOptions, first=MAIN, hidden=("keep_scales", "method", "feather"))
def upscale(image: ImageFile, *, config: ConfigFile = "", given: Any = None) -> None:
    """Make a small image as large as the model's: it gives the coarse scales, the model the fine ones."""
    options = settle(EditOptions, given, file=config)
    picture, pipeline = load(image, options)
    wanted = request(pipeline, options)
    del wanted["editing"]
    write(pipeline.upscale(picture, **wanted), options, pipeline, {"image": image})


def inpaint_image(image: str, options: InpaintOptions) -> None:
    """In-painting of what the mask or the boxes cover; of the whole image without either."""
    from nextscale.pictures import save_image

    picture, pipeline = load(image, options)
    mask: Any = options.mask or (parse_boxes(options.boxes) if options.boxes else None)
    wanted = request(pipeline, options)
    rejection = chosen_rejection(pipeline, options.candidates, 1, options.judge)
    editor = pipeline.editor(picture, mask, editing=wanted.pop("editing"))
    result = pipeline.variations(editor, rejection=rejection, **wanted)
    if options.strips:
        save_image(strips(pipeline, editor, wanted, result), numbered(options.out, "strips"))
    write(result, options, pipeline, {"image": image, "mask": options.mask or options.boxes or None})


def load(image: str, options: EditOptions) -> tuple[Image, VARPipeline]:
    """The image and the model, once the settings are known to be right. Raises ValueError."""
    from nextscale.data.decode import read_image

    picture = read_image(image)
    options.sampling()  # complain before a large model is loaded
    return picture, load_pipeline(options.model, options.device, options.precision)


def request(pipeline: VARPipeline, options: EditOptions) -> dict[str, Any]:
    """Classes, seeds and settings of an edit, as the pipeline takes them."""
    editing = EditConfig(**{field.name: getattr(options, field.name) for field in fields(EditConfig)})
    classes: Any = options.classes
    if classes != AUTO or options.given():
        classes = wanted(pipeline, options, classes, AUTO)
    seeds = range(options.seed, options.seed + options.count)
    asked = {"classes": classes, "seeds": seeds, "editing": editing, "negative_prompt": options.negative_prompt}
    return asked | options.sampling()


def parse_boxes(text: str) -> list[tuple[int, int, int, int]]:
    """From text such as 8,8,40,40;0,50,64,64. Raises ValueError."""
    boxes = []
    for part in text.split(";"):
        numbers = [number.strip() for number in part.split(",")]
        if len(numbers) != 4 or not all(number.isdigit() for number in numbers):
            raise ValueError(f"boxes: {part.strip()!r} is not a box; expected left,top,right,bottom in pixels")
        left, top, right, bottom = map(int, numbers)
        boxes.append((left, top, right, bottom))
    return boxes


def strips(pipeline: VARPipeline, editor: Editor, wanted: dict[str, Any], result: Generation) -> Image:
    """A row per variation, and per region where there are several, at the model's size.

    A row shows the region, the region without what the mask covers, and the result after each scale.
    """
    import torch

    from nextscale.editing.regions import resized
    from nextscale.pictures import grid, to_images

    chosen = {name: value for name, value in wanted.items() if name not in ("classes", "seeds")}
    size = pipeline.tokenizer.config.image_size
    shown = []
    shows = result.prompts or [pipeline.class_or_none(label) for label in result.classes]
    for label, seed in zip(shows, result.seeds, strict=True):
        for step in pipeline.edit_steps(editor, classes=[label], seeds=[seed], **chosen):
            part = step.editor
            if step.scale == 0:
                hole = resized(part.region.cut(part.mask, fill=1.0)[None, None], size)
                shown += [part.cut, part.cut * (hole <= 0)]
            shown.append(resized(part.region.cut(part.finish(step.accumulated)), size))
    return grid(to_images(torch.cat(shown)), columns=2 + len(pipeline.schedule))


def numbered(out: str, tag: str) -> Path:
    """OUT with a tag before its suffix."""
    path = Path(out)
    return path.with_name(f"{path.stem}-{tag}{path.suffix}")


def write(result: Generation, options: EditOptions, pipeline: VARPipeline, facts: dict[str, Any]) -> None:
    """Save every variation, print where, and write the JSON asked for."""
    from nextscale.pictures import save_image, sheet

    entries, about, names = [], told(pipeline, result), [name or "" for name in pipeline.names_of(result)]
    for number, (image, seed, shows) in enumerate(zip(result.images, result.seeds, about, strict=True)):
        path = Path(options.out) if options.count == 1 else numbered(options.out, f"{number:03d}")
        save_image(image, path)
        shows.pop("class_id", None)
        score = {} if result.scores is None else {"score": result.scores[number]}
        entries.append({"file": str(path)} | shows | {"seed": seed} | score)
    write_results(options.json, facts | {"model": options.model, "images": entries})
    nothing = "no prompt" if pipeline.reads_prompts else "no class"
    shown = ", ".join(dict.fromkeys(name or nothing for name in names))
    print(f"{counted(len(entries), 'image')} ({shown}): {', '.join(entry['file'] for entry in entries)}")
    if len(entries) > 1:
        path = numbered(options.out, "grid")
        save_image(sheet(result.images, names), path)
        print(f"side by side: {path}")
    made = {entry["file"] for entry in entries}
    others = [str(path) for path in earlier_variations(options.out) if str(path) not in made]
    if others:
        print(f"left alone, but not of this run: {named(others)}")


def earlier_variations(out: str) -> list[Path]:
    """Files whose names are those of numbered variations of OUT."""
    path = Path(out)
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}-[0-9][0-9][0-9]{path.suffix}"))
