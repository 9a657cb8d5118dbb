"""Draw the pictures of docs/images: one image per class, some of them scale by scale, and two models side by side.

python examples/procgen/draw_demo.py --before THE_MODEL_BEFORE
"""

from __future__ import annotations

from pathlib import Path

import cyclopts
from PIL import Image

from nextscale import VARPipeline
from nextscale.pictures import grid, save_image, sheet

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main(*, model: str = "demo", before: str = "", out: Path = IMAGES, enlarge: int = 2) -> None:
    """Write demo-grid.png and demo-scales.png; with another model `before`, also demo-before-after.png."""
    pipeline = VARPipeline.from_pretrained(model, dtype="fp32")
    classes = list(range(len(pipeline.class_names)))
    images = pipeline.generate(classes, seeds=range(len(classes))).images
    save_image(sheet(images, pipeline.class_names, columns=4), out / "demo-grid.png")
    shown = ["bigfish", "coinrun", "maze", "starpilot"]
    stages = [step.preview() for step in pipeline.generate_steps(shown, seeds=range(len(shown)))]
    strips = [stage[image] for image in range(len(shown)) for stage in stages]
    save_image(enlarged(grid(strips, columns=len(stages)), enlarge), out / "demo-scales.png")
    if before:
        earlier = VARPipeline.from_pretrained(before, dtype="fp32")
        save_image(side_by_side(earlier, pipeline), out / "demo-before-after.png")


def side_by_side(before: VARPipeline, after: VARPipeline, each: int = 4) -> Image.Image:
    """A row per class: the first images of a model, a gap, and those of the same seeds of another."""
    rows = []
    for label in range(len(before.class_names)):
        rows += before.generate([label], seeds=range(each)).images
        rows.append(Image.new("RGB", rows[0].size, "white"))
        rows += after.generate([label], seeds=range(each)).images
    return grid(rows, columns=2 * each + 1)


def enlarged(image: Image.Image, times: int) -> Image.Image:
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


if __name__ == "__main__":
    cyclopts.run(main)
