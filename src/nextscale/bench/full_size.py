"""Speed of the families at full size, with random weights, and how it grows with the token grid.

Times are seconds of one image with guidance; FLOPs count a multiply-add as two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextscale.bench.cost import generation_flops, model_flops, roofline, sampling_steps
from nextscale.bench.machine import gemm_rate, memory_rate, now, title_of
from nextscale.checkpoint import ModelConfig
from nextscale.families import family, family_of
from nextscale.families.config import SCALES_512, family_presets
from nextscale.nn.transformer import TransformerConfig
from nextscale.pipeline import VARPipeline
from nextscale.plots import new_figure
from nextscale.progress import Announce
from nextscale.tokenizer.config import small_scales, tokenizer_presets
from nextscale.tokenizer.vqvae import VQVAE, PixelTokenizer, VQVAEConfig

GRIDS = (8, 16, 32, 64)
"""Sides of the token grids over which growth is measured."""
GROWTH_DEPTH = 8
GUIDANCE = 1.5
Scales = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Entrant:
    """A model of the comparison: its kind, name and architecture, and the tokenizer that decodes for it."""

    name: str
    kind: str
    size: int
    "Pixels of the image's side."
    config: Any
    tokenizer: VQVAEConfig | None
    "None for a model of pixels."


def entrants(size: int) -> list[Entrant]:
    """The models at `size` pixels, 256 or 512; of each the architecture that was published.

    VAR-d16 and d30, raster order at both sizes, MaskGIT, RQ-Transformer and DiT-XL/2; at 256 also ViT-VQGAN's two
    priors behind its base tokenizer, StyleGAN-XL, and R3GAN, which was published at that size without classes. Raises
    ValueError for other sizes.
    """
    if size not in (256, 512):
        raise ValueError(f"sizes are 256 and 512, got {size}")

    def entrant(name: str, scales: Scales, **decoder: Any) -> Entrant:
        kind = name.split("-")[0]
        config = replace(family_presets(kind)[name], scales=scales)
        return Entrant(name, kind, size, config, VQVAEConfig(scales=scales, **decoder))

    pyramid = TransformerConfig().scales if size == 256 else SCALES_512
    single = ((size // 16, size // 16),)
    repeated = ((size // 32, size // 32),) * 4
    latent = ((size // 8, size // 8),)
    priors = {name: config for name, config in family_presets("raster").items() if name.startswith("vit-vqgan")}
    coder = tokenizer_presets()["vit-vqgan-base"]
    published = [Entrant(name, "raster", 256, config, coder) for name, config in priors.items()]
    for kind, name in (("stylegan-xl", "stylegan-xl-256"), ("r3gan", "r3gan-ffhq-256")):
        published.append(Entrant(name, kind, 256, family_presets(kind)[name], None))
    return [
        entrant("var-d16", pyramid),
        entrant("var-d30", pyramid),
        entrant("raster-d16", single),
        entrant("raster-d30", single),
        entrant("maskgit-d24", single),
        entrant("rq-d16", repeated, multipliers=(1, 1, 2, 2, 4, 4)),
        entrant("dit-xl-2", latent, latent_channels=4, multipliers=(1, 2, 4, 4), channels=128),
        *(published if size == 256 else ()),
    ]


def random_pipeline(entrant: Entrant, device: torch.device, dtype: torch.dtype) -> VARPipeline:
    """An entrant with random weights."""
    torch.manual_seed(0)
    model = family(entrant.kind).network(entrant.config)
    model.initialise()
    coder = entrant.tokenizer
    tokenizer = PixelTokenizer(entrant.config.image_size) if coder is None else VQVAE(coder).eval()
    config = ModelConfig(kind=entrant.kind, guidance=GUIDANCE if family(entrant.kind).guides else 0.0)
    return VARPipeline(tokenizer, model.eval(), config).to(device, dtype)


@dataclass(frozen=True)
class StepTimes:
    """Seconds of an image, and the share of its steps that was run; the rest is extrapolated."""

    seconds: float
    measured: float


def timed(
    steps: Iterator[Any], parts: int, limit: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[StepTimes, Any]:
    """Run a generation of so many parts until `limit` seconds have passed; also returns the last part that was run."""
    began, done, last = clock(), 0, None
    for step in steps:
        done, last = done + 1, step
        if clock() - began > limit:
            break
    seconds = clock() - began
    return StepTimes(seconds * parts / done, done / parts), last


def time_image(pipeline: VARPipeline, limit: float) -> tuple[StepTimes, Any]:
    """`timed` of one image, after the first part of another, or on CUDA all of it, to warm up."""
    config, device = pipeline.transformer.config, pipeline.device
    parts, label = family_of(config).yields(config), 0 if config.classes else None
    if device.type == "cuda":
        timed(iter(pipeline.generate_steps([label], seeds=[0])), parts, limit, lambda: now(device))
    else:
        # Without a number of steps, a diffusion's first part is 25 of them.
        fewer: dict[str, Any] = {} if parts == 1 else {"steps": 2}
        next(iter(pipeline.generate_steps([label], seeds=[0], **fewer)))
    return timed(iter(pipeline.generate_steps([label], seeds=[1])), parts, limit, lambda: now(device))


def measure_entrant(
    entrant: Entrant, device: torch.device, dtype: torch.dtype, limit: float, *, flop_rate: float, byte_rate: float
) -> dict[str, Any]:
    """One image, decoding included, beside what the machine's rates allow."""
    pipeline = random_pipeline(entrant, device, dtype)
    times, last = time_image(pipeline, limit)
    features = last.accumulated.float()
    if device.type == "cuda":
        pipeline.tokenizer.decode_features(features)  # warms up
    began = now(device)
    pipeline.tokenizer.decode_features(features)
    decoding = now(device) - began
    least = roofline(entrant.config, entrant.tokenizer, item=dtype.itemsize, flop_rate=flop_rate, byte_rate=byte_rate)
    return {
        **{name: getattr(entrant, name) for name in ("name", "kind", "size")},
        "parameters": pipeline.family.parameters(pipeline.transformer),
        "steps": sampling_steps(entrant.config),
        "flops": generation_flops(entrant.config, entrant.tokenizer, guided=pipeline.family.guides).total,
        "seconds": times.seconds + decoding,
        "decoding": decoding,
        "measured": times.measured,
        "roofline": asdict(least),
        "bytes_per_second": least.read / times.seconds,
    }


def measure_families(
    sizes: Sequence[int],
    names: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
    limit: float,
    progress: Announce,
) -> dict[str, Any]:
    """The entrants of these names (none: all) at every size. Raises ValueError for an unknown name or size."""
    known = [entrant for size in sizes for entrant in entrants(size)]
    wrong = set(names) - {entrant.name for entrant in known}
    if wrong:
        choices = ", ".join(entrant.name for entrant in entrants(256))
        raise ValueError(f"{sorted(wrong)[0]!r} is not known; expected some of {choices}")
    chosen = [entrant for entrant in known if not names or entrant.name in names]
    flop_rate, byte_rate = gemm_rate(device, dtype), memory_rate(device)
    advance = progress("models", len(chosen))
    rows = []
    for number, entrant in enumerate(chosen, 1):
        rows.append(measure_entrant(entrant, device, dtype, limit, flop_rate=flop_rate, byte_rate=byte_rate))
        advance(number)
    return {
        "precision": str(dtype).removeprefix("torch."),
        "device": title_of(device),
        "guidance": GUIDANCE,
        "gemm_flops_per_second": flop_rate,
        "bytes_per_second": byte_rate,
        "models": rows,
    }


def measure_growth(
    *, device: torch.device, dtype: torch.dtype, grids: Sequence[int] = GRIDS, progress: Announce
) -> dict[str, Any]:
    """Steps, FLOPs and seconds (without decoding) of raster order and next-scale prediction over the grid's side n.

    With the exponent of each: the slope of the least-squares line through the logarithms.
    """
    advance = progress("grids", 2 * len(grids))
    report: dict[str, Any] = {"depth": GROWTH_DEPTH, "precision": str(dtype).removeprefix("torch.")}
    done = 0
    for kind in ("var", "raster"):
        rows = []
        for side in grids:
            scales = small_scales(side) if kind == "var" else ((side, side),)
            config = family(kind).config(depth=GROWTH_DEPTH, scales=scales)
            entrant = Entrant(f"{kind}-n{side}", kind, 0, config, tiny_decoder(scales))
            times, _ = time_image(random_pipeline(entrant, device, dtype), 600)
            flops = model_flops(config, sequences=2).total
            rows.append({"n": side, "steps": sampling_steps(config), "flops": flops, **asdict(times)})
            done += 1
            advance(done)
        sides = np.log([row["n"] for row in rows])
        exponents = {
            name: float(np.polyfit(sides, np.log([row[name] for row in rows]), 1)[0])
            for name in ("steps", "flops", "seconds")
        }
        report[kind] = {"rows": rows, "exponents": exponents}
    return report


def tiny_decoder(scales: Scales) -> VQVAEConfig:
    """The smallest tokenizer of these scales, where only the transformer is timed."""
    return VQVAEConfig(
        scales=scales, channels=16, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, attention=False
    )


def plot_growth(growth: dict[str, Any], path: Path) -> None:
    """Steps, FLOPs and seconds over the grid's side n, of next-scale prediction and raster order."""
    titles = {"steps": "steps", "flops": "FLOPs of an image", "seconds": "seconds of an image, batch 1"}
    with new_figure(path, 11, 3.6, dpi=110) as figure:
        for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
            for kind, label, colour in (("var", "next-scale", "tab:purple"), ("raster", "raster order", "tab:orange")):
                rows = growth[kind]["rows"]
                exponent = growth[kind]["exponents"][name]
                sides = [row["n"] for row in rows]
                axes.loglog(sides, [row[name] for row in rows], "o-", color=colour, label=f"{label}, n^{exponent:.2f}")
            axes.set_xticks(sides, [str(side) for side in sides])
            axes.minorticks_off()
            axes.set_xlabel("side n of the token grid")
            axes.set_title(title, fontsize="medium")
            axes.legend(fontsize="small")
