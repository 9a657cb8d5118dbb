"""Draw prompts of prompts.txt as docs/images has them: one image each with its prompt, and some scale by scale.

python examples/emoji/draw_prompts.py --model demo-emoji
"""

from __future__ import annotations

from pathlib import Path

import cyclopts

from nextscale import VARPipeline
from nextscale.pictures import save_image, sheet

HERE = Path(__file__).parent
IMAGES = HERE.parents[1] / "docs" / "images"


def main(
    *,
    model: str = "demo-emoji",
    prompts: Path = HERE / "prompts.txt",
    out: Path = IMAGES,
    columns: int = 4,
    shown: int = 4,
) -> None:
    """Write prompts.png, image i of seed i, unchosen; and prompts-scales.png, the first ones after each scale."""
    pipeline = VARPipeline.from_pretrained(model, dtype="fp32")
    texts = prompts.read_text(encoding="utf-8").splitlines()
    stages = [step.preview() for step in pipeline.generate_steps(texts, seeds=range(len(texts)))]
    save_image(sheet(stages[-1], texts, columns=columns), out / "prompts.png")
    strips = [stage[image] for image in range(shown) for stage in stages]
    save_image(sheet(strips, columns=len(stages)), out / "prompts-scales.png")


if __name__ == "__main__":
    cyclopts.run(main)
