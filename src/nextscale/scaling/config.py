"""Settings of scaling runs and of the ablation; they import no torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.config import require_at_least, require_seed
from nextscale.settings import DataColumns

KINDS = ("var", "raster")


def require_same_settings(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ValueError for a result that was made with other settings than are asked for now."""
    for name in (name for name in now if name in before and before[name] != now[name]):
        change = f"{before[name]}, now {now[name]}"
        raise ValueError(f"{path}: was made with another {name} ({change}); choose another --out")


@dataclass(frozen=True, kw_only=True)
class ScalingRun(DataColumns):
    """Settings of `nextscale scaling run`."""

    data: str
    "Training images or tokens; each is used once."
    tokenizer: str
    "Tokenizer: a model, run or tokenizer folder."
    heldout: str
    "Held-out images or tokens, measured on."
    kind: str = "var"
    "var or raster."
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    "Depths to train."
    images: int = 0
    "Images of each training; 0 takes all of the data."
    heldout_images: int = 10_000
    "Held-out images measured."
    measurements: int = 16
    "Held-out measurements of each training, evenly spread: points of the compute frontier."
    batch_size: int = 64
    "Images per step."
    learning_rate: float = 8e-3
    "Peak learning rate of depth 4 at a batch of 256; other depths have it times (4 / depth) to the power below."
    rate_power: float = 0.5
    "How fast the learning rate falls with depth."
    ema: float = 0.999
    "Decay of the averaged weights, which are measured."
    out: str = "out/scaling"
    "Folder of all runs."
    seed: int = 0
    "Seed of initial weights, order and dropout."
    precision: str = "auto"
    "Type of products: auto (bf16 where the processor multiplies it, else fp32), bf16, fp32."
    device: str = "auto"
    "auto, cpu, cuda, mps."
    compile: bool = False
    "Compile the models."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size", "heldout_images", "measurements")
        require_at_least(self, 0, "images")
        require_seed(self.seed)
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} has no depths to compare; expected one of {', '.join(KINDS)}")
        if not self.depths or min(self.depths) < 1 or len(set(self.depths)) < len(self.depths):
            raise ValueError(f"depths must be different numbers from 1, got {list(self.depths)}")


@dataclass(frozen=True)
class Row:
    """A row of the table: a preset, and how it is sampled."""

    name: str
    title: str
    preset: str
    published_fid: float
    "The paper's, ImageNet 256 x 256 at 310M parameters."
    kind: str = "var"
    filtered: bool = False
    guided: bool = False


ROWS = (
    Row("raster", "raster order", "ablation-raster", 18.65, "raster"),
    Row("var", "next scale", "ablation-var", 5.22),
    Row("adaln", "+ AdaLN", "ablation-adaln", 4.95),
    Row("filtered", "+ top-k and top-p", "ablation-adaln", 4.64, filtered=True),
    Row("guided", "+ guidance", "ablation-adaln", 3.60, filtered=True, guided=True),
    Row("normalised", "+ attention normalisation", "ablation-normalised", 3.30, filtered=True, guided=True),
)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Settings of `nextscale scaling ablation`."""

    images: str
    "Real images that generated ones are compared with."
    data: str
    "Tokens to train on, of the tokenizer with scales."
    heldout: str
    "Held-out tokens."
    tokenizer: str
    "Tokenizer with scales."
    raster_data: str
    "Tokens of the same images, of the tokenizer with one scale."
    raster_heldout: str
    "Held-out tokens, of the tokenizer with one scale."
    raster_tokenizer: str
    "Tokenizer with one scale, for raster order."
    rows: tuple[str, ...] = tuple(row.name for row in ROWS)
    "Rows to make."
    seeds: tuple[int, ...] = (0, 1, 2)
    "Seeds of the trainings; their spread gives the intervals."
    steps: int = 2000
    "Steps of each training."
    batch_size: int = 32
    "Images per step."
    learning_rate: float = 6e-3
    "Peak learning rate at a batch of 256."
    ema: float = 0.999
    "Decay of the averaged weights, which are sampled."
    top_k: int = 0
    "Filter of the rows that have one: the k most likely tokens; 0 is off."
    top_p: float = 0.95
    "Filter of the rows that have one: the likeliest tokens that hold this probability together."
    guidance: float = 2.0
    "Guidance of the rows that have it."
    count: int = 5000
    "Images of each row and seed that are measured."
    features: str = "inception"
    "inception, or a torchvision classifier such as mobilenet_v2."
    feature_weights: str = ""
    "File with that network's weights, for any number of classes; without it, they are fetched."
    out: str = "out/ablation"
    "Folder of all runs."
    precision: str = "auto"
    "Type of products in training: auto (bf16 where the processor multiplies it, else fp32), bf16, fp32."
    device: str = "auto"
    "auto, cpu, cuda, mps."
    compile: bool = False
    "Compile the models."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps", "batch_size")
        require_at_least(self, 2, "count")
        known = [row.name for row in ROWS]
        if not self.rows or not set(self.rows) <= set(known):
            raise ValueError(f"rows must be some of {', '.join(known)}, got {', '.join(self.rows) or 'none'}")
        for seed in self.seeds:
            require_seed(seed, name="seeds")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different numbers, got {list(self.seeds)}")
