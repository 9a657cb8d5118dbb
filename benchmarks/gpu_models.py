"""What the stages of gpu.py share: sizes, models with random weights on both sides, timing and memory.

Weights are drawn by the published rule, with AdaLN's branches open (gamma 0.3) and a wide head, so that every tensor
matters and logits spread over tens; the authors' modules load the same weights.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextscale import VARPipeline
from nextscale.bench.machine import now, peak_memory, reset_peak_memory
from nextscale.checkpoint import ModelConfig
from nextscale.families.config import SCALES_512, VARConfig
from nextscale.families.var import VAR
from nextscale.official import tokenizer_to_official, transformer_to_official
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig

SAMPLING: dict[str, Any] = {"guidance": 1.5, "top_k": 900, "top_p": 0.96}
Scales = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    scales: Scales = VARConfig().scales
    channels: int = 160
    codebook_size: int = 4096
    classes: int = 1000
    depth: int = 16
    "Of correctness, profile and training."
    batches: tuple[int, ...] = (1, 8, 64)
    rounds: int = 5
    product: int = 8192
    "Rows and columns of the product that gives the card's rate."
    copied: int = 2**30
    "Bytes of the copy."
    training_batch: int = 32
    pictures: int = 2048
    "JPEGs of the loader's stage."


TOY = Sizes(
    scales=tuple((side, side) for side in (1, 2, 3, 4)), channels=32, codebook_size=1024, classes=10, depth=2,
    batches=(1, 4), rounds=2, product=256, copied=2**20, training_batch=4, pictures=32,
)  # fmt: skip


@dataclass
class Setup:
    """What a stage knows."""

    out: Path
    "For small files that are to be brought back."
    work: Path
    "For large ones."
    device: torch.device
    reference: Path | None
    "The authors' code."
    rehearse: bool
    found: dict[str, Any] = field(default_factory=dict)
    "Results of earlier stages."
    deadline: float = float("inf")

    @property
    def sizes(self) -> Sizes:
        return TOY if self.rehearse else Sizes()

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def begin(self, found: dict[str, Any], deadline: float) -> None:
        """Start a stage, in its process."""
        self.found, self.deadline = found, deadline
        if self.reference is not None:
            sys.path.insert(0, str(self.reference))

    def left(self) -> float:
        """Seconds until the stage is ended."""
        return self.deadline - time.monotonic()


@torch.no_grad()
def random_models(sizes: Sizes, depth: int, device: torch.device, *, large: bool = False) -> tuple[VQVAE, VAR]:
    """Tokenizer and transformer in float32, drawn on a device; `large` is the published model of 512 pixels."""
    scales = SCALES_512 if large else sizes.scales
    shared: Any = {"scales": scales, "codebook_size": sizes.codebook_size}
    torch.manual_seed(0)
    with device:
        tokenizer = VQVAE(VQVAEConfig(channels=sizes.channels, **shared))
        model = VAR(VARConfig(depth=depth, heads=depth, classes=sizes.classes, shared_adaln=large, **shared))
        model.initialise(gamma=0.3, head=8.0)
        nn.init.normal_(tokenizer.quantizer.codebook, std=0.7)
    return tokenizer.to(device).eval(), model.to(device).eval()  # buffers made elsewhere too


def pipeline_of(tokenizer: VQVAE, model: VAR, device: torch.device, dtype: torch.dtype) -> VARPipeline:
    return VARPipeline(tokenizer, model, ModelConfig()).to(device, dtype)


def authors_models(sizes: Sizes, tokenizer: VQVAE, model: VAR, device: torch.device) -> tuple[Any, Any]:
    """The authors' tokenizer and transformer with these weights."""
    from models import build_vae_var  # pyright: ignore[reportMissingImports]

    keep: dict[Any, Any] = {kind: kind.reset_parameters for kind in (nn.Linear, nn.LayerNorm, nn.Conv1d, nn.Conv2d)}
    warnings.filterwarnings("ignore", category=FutureWarning, module="models")
    with contextlib.redirect_stdout(io.StringIO()), device:
        vae, var = build_vae_var(
            device=device, patch_nums=tuple(side for side, _ in model.config.scales), V=sizes.codebook_size,
            ch=sizes.channels, num_classes=sizes.classes, depth=model.config.depth,
            shared_aln=model.config.shared_adaln,
        )  # fmt: skip
    for kind, method in keep.items():  # their builder switches initialisation off for everybody
        kind.reset_parameters = method
    vae.load_state_dict(tokenizer_to_official(tokenizer))
    var.load_state_dict(transformer_to_official(model))
    return vae.eval(), var.eval()


def authors_generate(setup: Setup, var: Any, batch: int) -> Callable[[], Any]:
    """Their generation as they run it: float32 weights under float16 autocast."""
    labels = torch.tensor(chosen_classes(setup, batch), device=setup.device)
    half = torch.float16 if setup.cuda else torch.bfloat16
    options = {"cfg": SAMPLING["guidance"], "top_k": SAMPLING["top_k"], "top_p": SAMPLING["top_p"]}

    def generate() -> Any:
        with torch.inference_mode(), torch.autocast(setup.device.type, half, cache_enabled=True):
            return var.autoregressive_infer_cfg(B=batch, label_B=labels, g_seed=0, **options)

    return generate


def chosen_classes(setup: Setup, batch: int) -> list[int]:
    return [7 * image % setup.sizes.classes for image in range(batch)]


def generate(setup: Setup, pipeline: VARPipeline, batch: int) -> Any:
    """A batch of images as a user asks for them, all worked on at once."""
    classes = chosen_classes(setup, batch)
    return pipeline.generate(classes, seeds=range(batch), batch_size=batch, **SAMPLING)


@contextlib.contextmanager
def without_graphs(pipeline: VARPipeline) -> Iterator[None]:
    """Run operation by operation for a while; the graphs that were captured are kept."""
    parts = [part for part in (pipeline.transformer, pipeline.tokenizer) if getattr(part, "graphs", None) is not None]
    kept = [part.graphs for part in parts]
    for part in parts:
        part.graphs = None
    try:
        yield
    finally:
        for part, graphs in zip(parts, kept, strict=True):
            part.graphs = graphs


def milliseconds(setup: Setup, call: Callable[[], Any]) -> float:
    """Time of a call: between two events on a GPU, by the clock elsewhere."""
    if not setup.cuda:
        began = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - began)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def timed(setup: Setup, call: Callable[[], Any], runs: int = 0) -> dict[str, float]:
    """Median and spread of a call in ms, after one to warm up; fewer runs where time runs out."""
    return in_turn(setup, {"": call}, runs)[""]


def in_turn(setup: Setup, calls: dict[str, Callable[[], Any]], runs: int = 0) -> dict[str, dict[str, Any]]:
    """`timed` of several calls, which take turns so that all see the same machine.

    Also the time of the first run, in which kernels are compiled, and the peak memory of the first two: graphs are
    captured in the second. A call that fails has its error instead.
    """
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        try:
            began = now(setup.device)
            first = peak_of(setup, call)
            found[name] = {"first_ms": 1000 * (now(setup.device) - began)}
            found[name]["first_gib"] = max(first, peak_of(setup, call))
            times[name] = []
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[-500:]}
    for _ in range(runs or setup.sizes.rounds):
        for name in times:
            if not times[name] or setup.left() > 8:
                times[name].append(milliseconds(setup, calls[name]))
    for name, values in times.items():
        found[name] |= {
            "ms": statistics.median(values), "fastest": min(values), "slowest": max(values), "runs": len(values),
        }  # fmt: skip
    return found


def peak_of(setup: Setup, call: Callable[[], Any]) -> float:
    """GiB that a call takes at its peak above what was taken before; on the CPU the peak of the process."""
    now(setup.device)
    before = torch.cuda.memory_allocated(setup.device) if setup.cuda else 0
    reset_peak_memory(setup.device)
    call()
    now(setup.device)
    return (peak_memory(setup.device) - before) / 2**30


def free() -> None:
    """Give freed memory of the GPU back."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
