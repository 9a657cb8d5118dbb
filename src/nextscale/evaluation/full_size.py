"""Speed of the families at full size, with random weights, and how it grows with the token grid.

Times are seconds of one image, decoding included; FLOPs count a multiply-add as two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from nextscale.checkpoint import ModelConfig
from nextscale.evaluation.cost import generation_flops, pass_flops, sampling_steps
from nextscale.evaluation.roofline import roofline
from nextscale.evaluation.speed import gemm_rate
from nextscale.families.config import SCALES_512, family_presets
from nextscale.families.table import family, family_of
from nextscale.nn.packed import count_parameters
from nextscale.nn.transformer import TransformerConfig
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce
from nextscale.scaling.fits import fit_power_law
from nextscale.tokenizer.config import small_scales
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig

GRIDS = (8, 16, 32, 64)
GROWTH_DEPTH = 8
GUIDANCE = 1.5


@dataclass(frozen=True)
class Entrant:
    """A model of the comparison: its kind, name and architecture, and the tokenizer that decodes for it."""

    name: str
    kind: str
    size: int
    config: TransformerConfig
    tokenizer: VQVAEConfig


def entrants(size: int) -> list[Entrant]:
    """VAR-d16 and d30, raster order at both sizes, RQ-Transformer, MaskGIT and DiT-XL/2; `size` pixels, 256 or 512."""
    side = size // 16
    scales = {256: TransformerConfig().scales, 512: SCALES_512}[size]
    single = ((side, side),)
    found = []
    for name, schedule in (
        ("var-d16", scales), ("var-d30", scales), ("raster-d16", single), ("raster-d30", single),
        ("maskgit-d24", single),
    ):  # fmt: skip
        kind = name.split("-")[0]
        config = replace(family_presets(kind)[name], scales=schedule)
        found.append(Entrant(name, kind, size, config, VQVAEConfig(scales=schedule)))
    coarse = ((size // 32, size // 32),) * 4
    residual = replace(family_presets("rq")["rq-d16"], scales=coarse)
    found.append(Entrant("rq-d16", "rq", size, residual, VQVAEConfig(scales=coarse, multipliers=(1, 1, 2, 2, 4, 4))))
    latent = ((size // 8, size // 8),)
    decoder = VQVAEConfig(scales=latent, latent_channels=4, multipliers=(1, 2, 4, 4), channels=128)
    public = replace(family_presets("dit")["dit-xl-2"], scales=latent)
    return [*found, Entrant("dit-xl-2", "dit", size, public, decoder)]


def random_pipeline(entrant: Entrant, device: torch.device, dtype: torch.dtype) -> VARPipeline:
    """An entrant with random weights."""
    torch.manual_seed(0)
    model = family(entrant.kind).network(entrant.config)
    model.initialise()
    tokenizer = VQVAE(entrant.tokenizer).eval()
    config = ModelConfig(kind=entrant.kind, guidance=GUIDANCE)
    return VARPipeline(tokenizer, model.eval(), config).to(device, dtype)


@dataclass(frozen=True)
class StepTimes:
    """Seconds of an image, and which share of its steps was measured; the rest is extrapolated."""

    seconds: float
    measured: float


def timed(
    steps: Iterator[Any], parts: int, limit: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[StepTimes, Any]:
    """Run the parts of a generation until `limit` seconds have passed; also the last part."""
    began, done, last = clock(), 0, None
    for step in steps:
        done, last = done + 1, step
        if clock() - began > limit:
            break
    seconds = clock() - began
    return StepTimes(seconds * parts / done, done / parts), last


def parts_of(config: TransformerConfig) -> int:
    """How often a sampler yields for an image: scales, rows, steps, or tenths."""
    return family_of(config).yields(config)


def measure_entrant(
    entrant: Entrant, device: torch.device, dtype: torch.dtype, limit: float, *, flop_rate: float, byte_rate: float
) -> dict[str, Any]:
    """One image after a short warm-up, beside what the machine's rates allow."""
    pipeline = random_pipeline(entrant, device, dtype)
    next(iter(pipeline.generate_steps([0], seeds=[0], steps=2 if entrant.kind == "dit" else None)))
    times, last = timed(iter(pipeline.generate_steps([1], seeds=[1])), parts_of(entrant.config), limit)
    began = time.perf_counter()
    pipeline.tokenizer.decode_features(last.accumulated.float())
    decoding = time.perf_counter() - began
    flops = generation_flops(entrant.config, entrant.tokenizer, guided=True)
    parameters = count_parameters(pipeline.transformer)
    least = roofline(
        entrant.config, entrant.tokenizer, item=dtype.itemsize, flop_rate=flop_rate, byte_rate=byte_rate
    )  # fmt: skip
    return {
        "name": entrant.name, "kind": entrant.kind, "size": entrant.size, "parameters": parameters,
        "steps": sampling_steps(entrant.config), "flops": flops.total, "seconds": times.seconds + decoding,
        "decoding": decoding, "measured": times.measured,
        "roofline": asdict(least), "bytes_per_second": least.read / times.seconds,
    }  # fmt: skip


def measure_families(
    sizes: Sequence[int], names: Sequence[str], *, device: torch.device, dtype: torch.dtype, limit: float,
    progress: Announce,
) -> dict[str, Any]:  # fmt: skip
    """Every entrant at every size, and the growth with the grid. Raises ValueError for an unknown name or size."""
    known = [entrant for size in sizes for entrant in sized(size)]
    wrong = set(names) - {entrant.name for entrant in known}
    if wrong:
        raise ValueError(f"{sorted(wrong)[0]!r} is not known; expected some of {', '.join(e.name for e in sized(256))}")
    chosen = [entrant for entrant in known if not names or entrant.name in names]
    flop_rate, byte_rate = gemm_rate(device, dtype), memory_rate(device)
    advance = progress("models", len(chosen))
    rows = []
    for number, entrant in enumerate(chosen, 1):
        rows.append(measure_entrant(entrant, device, dtype, limit, flop_rate=flop_rate, byte_rate=byte_rate))
        advance(number)
    return {
        "precision": str(dtype).removeprefix("torch."), "device": str(device), "guidance": GUIDANCE,
        "gemm_flops_per_second": flop_rate, "bytes_per_second": byte_rate, "models": rows,
    }  # fmt: skip


def sized(size: int) -> list[Entrant]:
    """`entrants`, for sizes that there are."""
    if size not in (256, 512):
        raise ValueError(f"sizes are 256 and 512, got {size}")
    return entrants(size)


def memory_rate(device: torch.device, *, megabytes: int = 1024) -> float:
    """Bytes per second at which a large buffer is read, best of five: what weights at batch 1 are bound by."""
    numbers = torch.ones(megabytes * 2**18, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        float(numbers.sum())
        best = min(best, time.perf_counter() - began)
    return numbers.nbytes / best


def measure_growth(
    *, device: torch.device, dtype: torch.dtype, grids: Sequence[int] = GRIDS, progress: Announce
) -> dict[str, Any]:
    """Steps, FLOPs and seconds (no decoding) of raster order and next-scale over the grid's side n, with exponents."""
    advance = progress("grids", 2 * len(grids))
    report: dict[str, Any] = {"depth": GROWTH_DEPTH, "precision": str(dtype).removeprefix("torch.")}
    done = 0
    for kind in ("var", "raster"):
        rows = []
        for side in grids:
            scales = small_scales(side) if kind == "var" else ((side, side),)
            config = family(kind).config(depth=GROWTH_DEPTH, scales=scales)
            entrant = Entrant(f"{kind}-n{side}", kind, 0, config, tiny_decoder(scales))
            pipeline = random_pipeline(entrant, device, dtype)
            next(iter(pipeline.generate_steps([0], seeds=[0])))
            times, _ = timed(iter(pipeline.generate_steps([1], seeds=[1])), parts_of(config), 600)
            flops = pass_flops(config, sequences=2, steps=0).total
            rows.append({
                "n": side, "steps": sampling_steps(config), "flops": flops, "seconds": times.seconds,
                "measured": times.measured,
            })  # fmt: skip
            done += 1
            advance(done)
        laws = {
            name: fit_power_law([row["n"] for row in rows], [row[name] for row in rows]).exponent
            for name in ("steps", "flops", "seconds")
        }
        report[kind] = {"rows": rows, "exponents": laws}
    return report


def tiny_decoder(scales: tuple[tuple[int, int], ...]) -> VQVAEConfig:
    """A tokenizer that costs nothing: only the transformer is timed."""
    return VQVAEConfig(
        scales=scales, channels=16, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, attention=False
    )
