"""Make a trained run the bundled demo model.

python examples/procgen/bundle_demo.py out/runs/procgen --guidance 1.5 --top-k 0 --top-p 0.97
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cyclopts
import torch

from nextscale.catalogue import find_model
from nextscale.checkpoint import save_model
from nextscale.sampling.next_scale import SamplingConfig

ASSETS = Path(__file__).parents[2] / "src" / "nextscale" / "assets" / "demo"


def main(run: Path, *, guidance: float, top_k: int, top_p: float, out: Path = ASSETS) -> None:
    """Write the run's model in bf16 with these generation defaults."""
    SamplingConfig(guidance=guidance, top_k=top_k, top_p=top_p)
    trained = find_model(run)
    config = replace(trained.config(), guidance=guidance, top_k=top_k, top_p=top_p)
    save_model(
        out, config, tokenizer=trained.tokenizer(), transformer=trained.transformer(), dtype=torch.bfloat16
    )  # fmt: skip
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    cyclopts.run(main)
