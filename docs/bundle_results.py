"""Make the results that the package holds of those in docs/results: what the studio draws, in few kB.

python docs/bundle_results.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nextscale.scaling.fits import FIGURES
from nextscale.studio.result_charts import COMPARED

RESULTS = Path(__file__).parent / "results"
BUNDLED = Path(__file__).parents[1] / "src" / "nextscale" / "assets" / "bundled"
FACTS = ("title", "kind", "parameters", "steps", "flops_per_image", "seconds_per_image")
"""Facts of a compared model that are kept."""
SHARED = ("count", "features", "reference", "sets")
"""Facts of a whole comparison that are kept."""
DIGITS = 5


def rounded(value: Any) -> Any:
    """The same with numbers of few digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def chosen(values: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def bundled() -> dict[str, dict[str, Any]]:
    """The files by name, in the formats of `nextscale scaling run` and `nextscale compare`."""
    runs, compared = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("scaling", "families"))
    facts = ("kind", "depth", "parameters", "flops", *FIGURES)
    scaling = [
        chosen(one, facts) | {"curve": [chosen(point, ("flops", *FIGURES)) for point in one["curve"]]}
        for one in runs["results"]
    ]
    models = [
        chosen(row, FACTS) | {part: chosen(row[part], COMPARED) for part in ("mean", "deviation")}
        for row in compared["models"]
    ]
    own = {"floor": chosen(compared["floor"], COMPARED), "models": models, "published": []}
    return {"scaling": rounded({"results": scaling}), "families": rounded(chosen(compared, SHARED) | own)}


def main() -> None:
    BUNDLED.mkdir(exist_ok=True)
    for name, values in bundled().items():
        (BUNDLED / f"{name}.json").write_text(json.dumps(values, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
