"""What the page needs beside its bundle: the models, pictures that stand before they are loaded, and our sources.

python -m nextscale.explain.build      # after `vite build`, which empties the folder; `make explain` does both
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from nextscale.explain.server import MODELS, SHARED, SITE, WEIGHTS, shared_hashes
from nextscale.explain.shared_weights import share_weights
from nextscale.export.config import OnnxConfig
from nextscale.files import write_json

STILLS = Path(__file__).parents[3] / "web" / "src" / "data" / "stills.json"
"""Class and seed of the pictures that stand before models are loaded; those of the first one are the strip's too."""


GRAPHS = {"encoder": "tokenizer", "transformer": "transformer", "decoder": "tokenizer"}
"""Graphs of a model, and the file of the bundled one that holds their weights."""


def export_models(folder: Path) -> None:
    """Both bundled models in int8, with their attention; raster order needs no encoder.

    What their graphs share with the package's own files is left out of them.
    """
    from nextscale.catalogue import TERMS, find_model
    from nextscale.export import export_onnx
    from nextscale.pipeline import VARPipeline

    for name in MODELS:
        stored = find_model(name)
        pipeline = VARPipeline(stored.tokenizer(), stored.transformer(), stored.config())
        config = OnnxConfig(dtype="int8", attention=True, licence=TERMS.get(name, ""))
        description = export_onnx(pipeline, folder / name, config=config, source=name)
        for graph, part in GRAPHS.items():
            path, location = folder / name / f"{graph}.onnx", f"{part}.safetensors"
            if share_weights(path, SHARED[f"models/{name}/{location}"], location):
                description["files"][path.name]["weights"] = location
            description["files"][path.name]["bytes"] = path.stat().st_size
        write_json(folder / name / "sampling.json", description)
    (folder / "demo-raster" / "encoder.onnx").unlink()


def write_stills(folder: Path) -> None:
    """The strip of the first image, a frame after each scale side by side, and each image by its class."""
    from nextscale.pipeline import VARPipeline

    folder.mkdir()
    pipeline = VARPipeline.from_pretrained("demo", device="cpu", dtype="fp32")
    for number, one in enumerate(json.loads(STILLS.read_text(encoding="utf-8"))):
        steps = pipeline.generate_steps(one["name"], seeds=[one["seed"]])
        frames = [np.asarray(step.preview()[0]) for step in steps]
        Image.fromarray(frames[-1]).save(folder / f"{one['name']}.png")
        if number == 0:
            Image.fromarray(np.concatenate(frames, axis=1)).save(folder / "strip.png")


def copy_sources(site: Path) -> None:
    """The files of ours that the page links to, as code/PATH. Raises FileNotFoundError for a dead link."""
    package = Path(__file__).parents[1]
    for name in sorted(set(re.findall(r'href="code/([\w/.]+)"', (site / "index.html").read_text(encoding="utf-8")))):
        place = site / "code" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, place)


def write_sizes(site: Path) -> None:
    """Bytes of everything that is downloaded before the models can draw, for the progress bar."""
    files = [*(site / "assets").glob("*.wasm"), *(path for path in (site / "models").rglob("*.*") if path.is_file())]
    places = {path.relative_to(site).as_posix(): path for path in files} | SHARED
    sizes = {name: places[name].stat().st_size for name in sorted(places)}
    (site / "models" / "sizes.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def build(site: Path = SITE) -> None:
    """Put everything beside the bundle in `site`."""
    for part in ("models", "stills", "code"):
        shutil.rmtree(site / part, ignore_errors=True)
    export_models(site / "models")
    write_stills(site / "stills")
    copy_sources(site)
    write_sizes(site)
    write_json(site / WEIGHTS, shared_hashes())


if __name__ == "__main__":
    build()
