"""The figures that the page shows, from docs/results; writes web/src/data/figures.json.

python web/figures.py            # after results have changed; a test says when that is
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "web" / "src" / "data" / "figures.json"
SHORT = {"var": "next scale", "raster": "raster order", "rq": "RQ-Transformer", "maskgit": "MaskGIT", "dit": "DiT"}


def read(name: str) -> Any:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def rounded(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def figures() -> dict[str, Any]:
    """What charts of the page show; distances are Frechet distances of MobileNetV2 features."""
    scaling, families, size, given = read("scaling"), read("families"), read("full-size"), read("given-scales")
    ablation: dict[str, list[float]] = {}
    for row in scaling["ablation"]:
        ablation.setdefault(row["row"], []).append(row["figures"]["frechet"])
    numbers = ("parameters", "flops", "loss", "loss_last", "error", "error_last")
    return {
        "scaling": [
            {"kind": one["kind"], "depth": one["depth"], **{name: rounded(one[name]) for name in numbers}}
            for one in scaling["results"]
        ],
        "ablation": [{"row": row, "frechet": rounded(mean(values))} for row, values in ablation.items()],
        "floor": rounded(families["floor"]["frechet"], 4),
        "families": [
            {
                "kind": one["kind"],
                "name": SHORT[one["kind"]],
                "steps": one["steps"],
                "frechet": rounded(one["mean"]["frechet"], 4),
                "gflop": rounded(one["flops_per_image"] / 1e9, 3),
                "parameters": one["parameters"],
                "seconds": {batch: rounded(value, 3) for batch, value in one["seconds_per_image"].items()},
            }
            for one in families["models"]
        ],
        "published": [
            {
                **one,
                "time": str(one["time"]).lstrip(">") and float(str(one["time"]).lstrip(">")),
                "at_least": str(one["time"]).startswith(">"),
            }
            for one in families["published"]
            if one["time"]
        ],
        "validation": next(one["frechet"] for one in families["published"] if one["model"] == "validation data"),
        "full_size": [
            {
                "name": one["name"],
                "kind": one["kind"],
                "size": one["size"],
                "steps": one["steps"],
                "tflop": rounded(one["flops"] / 1e12, 3),
                "seconds": rounded(one["seconds"], 3),
                "gigabytes": rounded(one["roofline"]["read"] / 1e9, 3),
            }
            for one in size["models"]
        ],
        "growth": {
            kind: [
                {
                    "n": one["n"],
                    "steps": one["steps"],
                    "gflop": rounded(one["flops"] / 1e9, 3),
                    "seconds": rounded(one["seconds"], 3),
                }
                for one in size["growth"][kind]["rows"]
            ]
            for kind in ("var", "raster")
        },
        "given": [{"given": one["given"], "frechet": rounded(one["frechet"], 4)} for one in given["results"]],
        "method": read("method"),
    }


def text() -> str:
    return json.dumps(figures(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
