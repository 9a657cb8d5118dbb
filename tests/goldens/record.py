"""Record what the package makes now: `python tests/goldens/record.py`. `test_goldens.py` compares with the records.

Only public names, the command line and files on disk are used, so that the records outlive any change of the inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from PIL import Image
from safetensors import safe_open
from torchvision.models import get_model

from nextscale import VARPipeline
from nextscale.cli import app, main
from nextscale.sampling.rejection import Rejection

HERE = Path(__file__).parent
HELP = HERE / "help"
CLASSES = ("blue", "green", "red")
SEEDS = range(4)
SCALES = {"var": "1,2,3,4", "raster": "4", "rq": "4,4", "maskgit": "4", "dit": "4"}
"""Side lengths of the token maps that a family's toy model predicts; families of equal ones share a tokenizer."""
SMALL = ["--batch-size", "4", "--log-every", "1", "--precision", "fp32", "--device", "cpu"]
MEASURED = ("seconds", "per_second", "memory", "bytes", "time", "total", "gemm")
"""Parts of the names of values that differ from run to run."""
FEATURES = "resnet18"
"""A network of torchvision whose features differ between images with random weights, too."""


def picture(label: int, index: int, side: int) -> Image.Image:
    """A square of the class's colour at a random place, on noise."""
    rng = np.random.default_rng([label, index])
    pixels = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    top, left = rng.integers(0, side // 2, 2)
    pixels[top : top + side // 2, left : left + side // 2, 2 - label] = 230
    return Image.fromarray(pixels)


def write_pictures(folder: Path, per_class: int = 8) -> Path:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            picture(label, index, 16).save(folder / name / f"{index:03d}.png")
    return folder


def run(*words: object) -> str:
    """What a command prints; it must succeed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(word) for word in words]) == 0, words
    return printed.getvalue()


def tokens_of(result: Any) -> dict[str, Any]:
    packed = result.tokens.packed.cpu().numpy().astype("<i8")
    pixels = hashlib.sha256()
    for image in result.images:
        pixels.update(repr(image.size).encode() + image.convert("RGB").tobytes())
    return {
        "sha256": hashlib.sha256(packed.tobytes()).hexdigest(),
        "pixels_sha256": pixels.hexdigest(),
        "classes": list(result.classes),
        "seeds": list(result.seeds),
        "tokens": packed.tolist(),
    }


def record_demo() -> dict[str, Any]:
    """Tokens and pixels of the bundled models."""
    demo = VARPipeline.from_pretrained("demo", device="cpu", dtype="fp32")
    raster = VARPipeline.from_pretrained("demo-raster", device="cpu", dtype="fp32")
    original = picture(1, 0, 64)
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:40, 20:50] = True
    wide = Image.fromarray(np.tile(np.array(original), (1, 2, 1)))
    some: dict[str, Any] = {"seeds": [0, 1]}
    results = {
        "default": demo.generate(["maze", "coinrun", "bigfish", "starpilot"], seeds=SEEDS),
        "filtered": demo.generate(["maze", 3], guidance=1.5, top_k=50, top_p=0.9, temperature=0.9, **some),
        "smooth": demo.generate(["miner"], smooth=True, seeds=[0]),
        "unconditional": demo.generate([None], guidance=0.0, **some),
        "rejection": demo.generate(["heist", "ninja"], rejection=Rejection(candidates=3), **some),
        "raster": raster.generate(["maze", "coinrun"], **some),
        "inpaint": demo.inpaint(original, mask, **some),
        "inpaint with rejection": demo.inpaint(
            original, mask, classes="maze", rejection=Rejection(candidates=2), seeds=[0]
        ),
        "inpaint two regions": demo.inpaint(wide, [(4, 4, 20, 20), (100, 30, 120, 50)], classes=["coinrun"], **some),
        "edit": demo.edit(original, classes=["jumper"], keep_scales=3, **some),
        "outpaint": demo.outpaint(original, right=24, top=8, classes=["leaper"], seeds=[0]),
        "upscale": demo.upscale(original.resize((16, 16)), classes=["plunder"], seeds=[0]),
    }
    return {name: tokens_of(result) for name, result in results.items()}


def values_of(report: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers of a report by their path, without those that are measured by the clock."""
    if isinstance(report, dict):
        for name, value in report.items():
            if not any(part in name for part in MEASURED):
                yield from values_of(value, f"{path}/{name}")
    elif isinstance(report, list):
        for number, value in enumerate(report):
            yield from values_of(value, f"{path}/{number}")
    elif isinstance(report, int | float) and not isinstance(report, bool) and math.isfinite(report):
        yield path, report


def schema_of(value: Any) -> Any:
    """Names and types, without values: lists are the schemas that occur in them."""
    if isinstance(value, dict):
        return {name: schema_of(part) for name, part in sorted(value.items())}
    if isinstance(value, list):
        kinds = {json.dumps(schema_of(part), sort_keys=True) for part in value}
        return [json.loads(kind) for kind in sorted(kinds)]
    return type(value).__name__


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shapes(folder: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the tensors in each file of weights of a model folder."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            found[path.relative_to(folder).as_posix()] = {
                name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())
            }
    return found


def run_of(folder: Path) -> dict[str, Any]:
    """What a run folder holds."""
    metrics = [
        {name: value for name, value in line.items() if not any(part in name for part in MEASURED)}
        for line in lines(folder / "metrics.jsonl")
    ]
    described = {name: schema_of(json.loads((folder / name).read_text())) for name in ("config.json", "run.json")}
    return {"metrics": metrics, "shapes": shapes(folder / "model"), "files": described}


class Toys:
    """Toy data, and a tiny tokenizer and model of every family, trained from the command line for a few steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_pictures(folder / "data")
        for scales in dict.fromkeys(SCALES.values()):
            adversary = ["--adversarial", "0.5", "--adversarial-start", "0", "--discriminator-channels", "8"]
            run(
                "train", "tokenizer", "--preset", "tiny-16", "--scales", scales, "--data", self.data, "--heldout",
                self.data, "--heldout-images", 8, "--steps", 2, "--sample-every", 2, *SMALL, "--out",
                self.tokenizer(scales), *(adversary if scales == SCALES["var"] else []),
            )  # fmt: skip
        for kind, scales in SCALES.items():
            run(
                "train", kind, "--preset", "tiny", "--heads", 1, "--tokenizer", self.tokenizer(scales), "--data",
                self.data, "--heldout", self.data, "--heldout-images", 8, "--steps", 3, "--sample-every", 3,
                "--learning-rate", 2, *SMALL, "--out", self.model(kind),
            )  # fmt: skip

    def tokenizer(self, scales: str) -> Path:
        return self.folder / f"tokenizer-{scales}"

    def model(self, kind: str) -> Path:
        return self.folder / kind


def record_families(toys: Toys) -> dict[str, Any]:
    """What training leaves behind for every family and tokenizer, and what the models then draw."""
    found = {f"tokenizer {scales}": run_of(toys.tokenizer(scales)) for scales in dict.fromkeys(SCALES.values())}
    for kind in SCALES:
        pipeline = VARPipeline.from_pretrained(toys.model(kind), device="cpu", dtype="fp32")
        settings: dict[str, Any] = {"steps": 5} if kind == "dit" else {}
        drawn = pipeline.generate(["red", 0, None], seeds=[0, 1, 2], **settings)
        found[kind] = run_of(toys.model(kind)) | {"drawn": tokens_of(drawn)}
    return found


def record_reports(toys: Toys) -> dict[str, Any]:
    """Names, types and values of what commands write for programs."""
    folder, var = toys.folder / "reports", toys.model("var")
    folder.mkdir()
    torch.manual_seed(0)
    weights = folder / "features.pth"
    torch.save(get_model(FEATURES).state_dict(), weights)
    image, data, out = toys.data / "red" / "000.png", ["--data", toys.data], folder / "out"
    fp32 = ["--precision", "fp32", "--device", "cpu"]
    features = ["--features", FEATURES, "--feature-weights", weights]
    ablation = ["--images", toys.data, *data, "--raster-data", toys.data, "--raster-heldout", toys.data]
    tokenizer = ["--tokenizer", toys.tokenizer(SCALES["var"]), "--raster-tokenizer", toys.tokenizer("4")]
    run("convert", toys.model("dit"), "--steps", 4, "--out", folder / "quick-dit")
    models = [*(toys.model(kind) for kind in SCALES if kind != "dit"), folder / "quick-dit"]
    commands: dict[str, list[object]] = {
        "generate": ["generate", "--model", var, "--classes", "red,0", "--count", 3, *fp32],
        "generate candidates": ["generate", "--model", var, "--count", 2, "--candidates", 2, *fp32],
        "reconstruct": ["reconstruct", toys.data / "red", "--model", var],
        "edit inpaint": ["edit", "inpaint", image, "--boxes", "2,2,9,9", "--count", 2, "--model", var, *fp32],
        "tokenize": ["tokenize", *tokenizer[:2], *data, "--views", 2],
        "evaluate generation": ["evaluate", "generation", "--model", var, *data, "--count", 12, *features, *fp32],
        "evaluate sweep": [
            "evaluate", "generation", "--model", var, *data, "--count", 12, "--sweep", "--guidances", "0,2",
            *features, *fp32,
        ],
        "evaluate reconstruction": [
            "evaluate", "reconstruction", "--model", var, *data, "--count", 12, *features, "--perceptual", "none",
        ],
        "evaluate likelihood": ["evaluate", "likelihood", "--model", var, *data, "--classify", 6, *fp32],
        "compare": [
            "compare", *models, *data, "--count", 6, "--sets", 1, "--rounds", 1,
            "--time-batches", 1, *features, *fp32,
        ],
        "scaling run": [
            "scaling", "run", *data, "--heldout", toys.data, *tokenizer[:2], "--depths", "1,2,3", "--batch-size", 4,
            "--heldout-images", 8, "--measurements", 3, *fp32,
        ],
        "scaling fit": ["scaling", "fit", out / "scaling run"],
        "scaling ablation": [
            "scaling", "ablation", *ablation, "--heldout", toys.data, *tokenizer, "--rows", "adaln,filtered",
            "--seeds", 0, "--steps", 2, "--batch-size", 4, "--count", 6, *features, *fp32,
        ],
        "bench": ["bench", "--model", var, "--batch-sizes", "1,2", "--rounds", 1, *fp32],
        "info": ["info", var],
        "info run of a tokenizer": ["info", toys.tokenizer(SCALES["var"])],
        "convert": ["convert", var, "--export", "bf16"],
    }  # fmt: skip
    without_out = ("scaling fit", "bench", "info", "info run of a tokenizer")
    found = {}
    for name, words in commands.items():
        place = out / (f"{name}.png" if name.startswith("edit") else name)
        run(*words, *([] if name in without_out else ["--out", place]), "--json", folder / "report.json")
        report = json.loads((folder / "report.json").read_text())
        found[name] = {"schema": schema_of(report), "values": dict(values_of(report))}
    for name in ("generate", "generate candidates"):
        entries = lines(out / name / "manifest.jsonl")
        found[f"manifest of {name}"] = {"schema": schema_of(entries), "values": dict(values_of(entries))}
    return found


def commands(of: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and of every group of commands."""
    yield path
    for name in of:
        if not name.startswith("-"):
            yield from commands(of[name], (*path, name))


def record_help() -> dict[str, str]:
    """The help of every command, by the name of its file, 120 characters wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "120"
    try:
        pages = {words: run(*words, "--help") for words in commands()}
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return {"-".join(("nextscale", *words)) + ".txt": text.rstrip() + "\n" for words, text in pages.items()}


def written(value: Any, indent: str = "") -> str:
    """JSON with a line per entry of an object, and lists and small objects on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or len(flat) < 100:
        return flat
    parts = (f"{indent}  {json.dumps(name)}: {written(part, indent + '  ')}" for name, part in value.items())
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"


def record() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        toys = Toys(Path(folder))
        made: dict[str, Callable[[], dict]] = {
            "demo": record_demo,
            "families": lambda: record_families(toys),
            "reports": lambda: record_reports(toys),
        }
        for name, make in made.items():
            (HERE / f"{name}.json").write_text(written(make()) + "\n", encoding="utf-8")
    HELP.mkdir(exist_ok=True)
    for path in HELP.glob("*.txt"):
        path.unlink()
    for name, text in record_help().items():
        (HELP / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(record())
