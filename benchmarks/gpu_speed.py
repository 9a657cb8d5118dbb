"""Speed of generation beside the authors' code, profiles, and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpu_models import (
    SAMPLING,
    Setup,
    authors_generate,
    authors_models,
    chosen_classes,
    free,
    generate,
    in_turn,
    milliseconds,
    pipeline_of,
    random_models,
    timed,
    without_graphs,
)
from gpu_runner import Note
from nextscale import VARPipeline
from nextscale.nn.cuda import plain_expressions
from nextscale.nn.packed import count_parameters
from nextscale.runtime import autocast

Call = Callable[[], Any]


def speed(setup: Setup, note: Note, *, depth: int, large: bool = False) -> None:
    """All ways to generate a batch, taking turns; bf16 for ours, float16 autocast for the authors' code."""
    depth = setup.sizes.depth if setup.rehearse else depth
    large = large and not setup.rehearse
    tokenizer, model = random_models(setup.sizes, depth, setup.device, large=large)
    note("parameters", count_parameters(model))
    theirs = None
    if setup.reference is not None:
        try:
            theirs = authors_models(setup.sizes, tokenizer, model, setup.device)[1]
        except Exception as error:
            note("the authors' code", f"{type(error).__name__}: {error}"[-500:])
    pipeline = pipeline_of(tokenizer, model, setup.device, torch.bfloat16)
    for batch in setup.sizes.batches[: 2 if large else None]:
        calls: dict[str, Call] = {
            "ours": partial(generate, setup, pipeline, batch),
            "ours, no graphs": eager(setup, pipeline, batch),
            "ours, tokens alone": tokens_alone(setup, pipeline, batch),
            "ours, decoding alone": decoding(setup, pipeline, batch),
        }
        if depth <= 16:
            calls["ours, no graphs, no kernels"] = plain(setup, pipeline, batch)
        if theirs is not None:
            calls["authors'"] = authors_generate(setup, theirs, batch)
        rows = in_turn(setup, calls, 3 if batch > 8 and not setup.rehearse else 0)
        for row in rows.values():
            if "ms" in row:
                row["images_per_s"] = 1000 * batch / row["ms"]
        note(f"batch {batch}", rows)
        graphs = getattr(pipeline.transformer, "graphs", None)
        note(f"batch {batch}: graphs in use", bool(getattr(graphs, "capture", False)))
        free()


def eager(setup: Setup, pipeline: VARPipeline, batch: int) -> Call:
    def call() -> None:
        with without_graphs(pipeline):
            generate(setup, pipeline, batch)

    return call


def plain(setup: Setup, pipeline: VARPipeline, batch: int) -> Call:
    def call() -> None:
        with plain_expressions(), without_graphs(pipeline):
            generate(setup, pipeline, batch)

    return call


def tokens_alone(setup: Setup, pipeline: VARPipeline, batch: int) -> Call:
    def call() -> None:
        for _ in pipeline.generate_steps(chosen_classes(setup, batch), seeds=range(batch), **SAMPLING):
            pass

    return call


def decoding(setup: Setup, pipeline: VARPipeline, batch: int) -> Call:
    """What accumulated to images on the device."""
    config = pipeline.tokenizer.config
    features = torch.randn(batch, config.latent_channels, *config.schedule.final, device=setup.device)
    return partial(pipeline.tokenizer.decode_each, features)


def profile(setup: Setup, note: Note) -> None:
    """What one image and a batch launch, without graphs and with them; the tables go to profile.txt."""
    tokenizer, model = random_models(setup.sizes, setup.sizes.depth, setup.device)
    pipeline = pipeline_of(tokenizer, model, setup.device, torch.bfloat16)
    for batch in (setup.sizes.batches[0], setup.sizes.batches[-1]):
        for name, call in (
            ("eager", eager(setup, pipeline, batch)),
            ("graphs", partial(generate, setup, pipeline, batch)),
        ):
            note(f"batch {batch}, {name}", profiled(setup, call, f"{name}, batch {batch}"))


def profiled(setup: Setup, call: Call, title: str) -> dict[str, float]:
    """Launches, synchronisations and copies of a call, and how long the GPU works of the time it takes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    for _ in range(2):  # graphs are captured in the second
        call()
    took = milliseconds(setup, call)
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setup.cuda else [])
    with recording(activities=kinds, acc_events=True) as recorded:
        milliseconds(setup, call)
    averages, events = recorded.key_averages(), recorded.events() or ()
    key = "self_cuda_time_total" if setup.cuda else "self_cpu_time_total"
    table = averages.table(sort_by=key, row_limit=40, max_name_column_width=90)
    with (setup.out / "profile.txt").open("a") as file:
        file.write(f"{title}\n{table}\n")
    on_device = [event for event in events if "CUDA" in str(event.device_type)]
    return {
        "ms": took,
        "launches": sum("LaunchKernel" in event.name for event in events),
        "graph_launches": sum("GraphLaunch" in event.name for event in events),
        "synchronisations": sum("ynchronize" in event.name for event in events),
        "copies": sum(event.name.startswith("Memcpy") for event in on_device),
        "kernels": sum(not event.name.startswith("Mem") for event in on_device),
        "device_busy_ms": sum(event.device_time_total for event in on_device) / 1000,
    }


def tokenizer(setup: Setup, note: Note) -> None:
    """Encoding and decoding at batch 32."""
    batch = 4 if setup.rehearse else 32
    coder, _ = random_models(setup.sizes, setup.sizes.depth, setup.device)
    height, width = coder.config.image_size
    images = torch.rand(batch, 3, height, width, device=setup.device) * 2 - 1
    tokens = coder.encode(images)

    def half() -> None:
        with autocast(setup.device, torch.bfloat16):
            coder.encode(images)

    rows = in_turn(setup, {"encode, fp32": lambda: coder.encode(images), "encode, bf16": half})
    rows["decode, fp32"] = timed(setup, lambda: coder.decode(tokens))
    coder.set_decoder_dtype(torch.bfloat16)
    rows["decode, bf16"] = timed(setup, lambda: coder.decode(tokens))
    for row in rows.values():
        if "ms" in row:
            row["images_per_s"] = 1000 * batch / row["ms"]
    note(f"batch {batch}", rows)
