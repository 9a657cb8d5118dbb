"""Draw the pictures of docs/images: one image per class, and some of them scale by scale.

python examples/procgen/draw_demo.py
"""

from __future__ import annotations

from pathlib import Path

import cyclopts
from PIL import Image

from nextscale import VARPipeline
from nextscale.pictures import grid, save_image, sheet

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main(*, model: str = "demo", out: Path = IMAGES, enlarge: int = 2) -> None:
    """Write demo-grid.png and demo-scales.png."""
    pipeline = VARPipeline.from_pretrained(model, dtype="fp32")
    classes = list(range(len(pipeline.class_names)))
    images = pipeline.generate(classes, seeds=range(len(classes))).images
    save_image(sheet(images, pipeline.class_names, columns=4), out / "demo-grid.png")
    shown = ["bigfish", "coinrun", "maze", "starpilot"]
    stages = [step.preview() for step in pipeline.generate_steps(shown, seeds=range(len(shown)))]
    strips = [stage[image] for image in range(len(shown)) for stage in stages]
    save_image(enlarged(grid(strips, columns=len(stages)), enlarge), out / "demo-scales.png")


def enlarged(image: Image.Image, times: int) -> Image.Image:
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


if __name__ == "__main__":
    cyclopts.run(main)
