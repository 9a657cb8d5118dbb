"""Make a trained run the bundled demo model.

python examples/procgen/bundle_demo.py out/runs/procgen --decoder out/runs/procgen-decoder --guidance 2 --top-p 0.95
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
import torch

from nextscale.catalogue import find_model
from nextscale.checkpoint import fingerprint, save_model
from nextscale.sampling.next_scale import SamplingConfig

ASSETS = Path(__file__).parents[2] / "src" / "nextscale" / "assets" / "demo"


def main(
    run: Path,
    *,
    guidance: float,
    top_p: float,
    top_k: int = 0,
    spatial_guidance: float = 0.0,
    decoder: Annotated[str, cyclopts.Parameter(help="Run that trained the tokenizer's decoder further.")] = "",
    out: Path = ASSETS,
) -> None:
    """Write the run's model in int8 with these generation defaults."""
    defaults = {"guidance": guidance, "top_k": top_k, "top_p": top_p}
    defaults |= {"spatial_guidance": (spatial_guidance,) if spatial_guidance else ()}
    SamplingConfig(**defaults)
    trained = find_model(run)
    tokenizer = find_model(decoder or run).tokenizer()
    if fingerprint(tokenizer) != fingerprint(trained.tokenizer()):
        raise SystemExit(f"{decoder}: its tokens are not those that {run} was trained on")
    config = replace(trained.config(), **defaults)
    save_model(out, config, tokenizer=tokenizer, transformer=trained.transformer(), dtype=torch.int8)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    cyclopts.run(main)
