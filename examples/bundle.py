"""Make a trained run one of the bundled models: int8 weights, and the settings it is drawn with.

python examples/bundle.py out/runs/procgen --decoder out/runs/procgen-decoder --guidance 2 --top-p 0.95
python examples/bundle.py out/emoji-text/model --name demo-emoji --prompts examples/emoji/prompts.txt --top-p 0.95
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch

from nextscale.catalogue import BUNDLED, find_model
from nextscale.checkpoint import fingerprint, save_model
from nextscale.sampling.next_scale import SamplingConfig

ASSETS = Path(__file__).parents[1] / "src" / "nextscale" / "assets"


def main(
    run: Path,
    *,
    name: str = "demo",
    guidance: float = 3.0,
    top_p: float = 0.0,
    top_k: int = 0,
    spatial_guidance: float = 0.0,
    decoder: Annotated[str, cyclopts.Parameter(help="Run that trained the tokenizer's decoder further.")] = "",
    prompts: Annotated[Path | None, cyclopts.Parameter(help="Prompts that stand as examples, one a line.")] = None,
    out: Path | None = None,
) -> None:
    """Write the run's model in int8 with these generation defaults, as the bundled model NAME or into OUT."""
    if name not in BUNDLED:
        raise SystemExit(f"{name}: is no bundled model; expected one of {', '.join(BUNDLED)}")
    defaults: dict[str, Any] = {"guidance": guidance, "top_k": top_k, "top_p": top_p}
    defaults |= {"spatial_guidance": (spatial_guidance,) if spatial_guidance else ()}
    SamplingConfig(**defaults)
    if prompts is not None:
        defaults |= {"prompts": tuple(prompts.read_text(encoding="utf-8").split("\n")[:-1])}
    trained = find_model(run)
    tokenizer = find_model(decoder or run).tokenizer()
    if fingerprint(tokenizer) != fingerprint(trained.tokenizer()):
        raise SystemExit(f"{decoder}: its tokens are not those that {run} was trained on")
    config = replace(trained.config(), **defaults)
    place = out or ASSETS / name
    save_model(place, config, tokenizer=tokenizer, transformer=trained.transformer(), dtype=torch.int8)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    print(f"{place}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    cyclopts.run(main)
