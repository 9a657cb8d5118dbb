"""`nextscale bench`: where the time of a generation goes, and with `--families` how long all families take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cli.generate import load_pipeline
from nextscale.cli.options import ConfigFile, accepts, settle, show
from nextscale.cli.outputs import at_work, write_results
from nextscale.cli.tables import print_table, show_table
from nextscale.config import read_json, require_at_least
from nextscale.settings import DEMO, PairFlags, ScaleFlags

if TYPE_CHECKING:
    from nextscale.bench.speed import GenerationSpeed
    from nextscale.pipeline import VARPipeline

ONE_CALL = "all in one call"
"""Name of the time of a batch that is not looked at between its scales."""


OF_FAMILIES = {"families", "sizes", "entrants", "limit", "growth", "report", "json", "plot", "precision", "device"}
"""Settings of the bench of all families."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions(PairFlags, ScaleFlags):
    """Settings of `nextscale bench`."""

    model: str = DEMO
    "demo, var-d16 ..., a model or run folder, a hub id, or random:var-d16 for an official size without its weights."
    batch_sizes: tuple[int, ...] = (1, 8)
    "Images at once, with commas."
    rounds: int = 3
    "Rounds over all batch sizes after one to warm up; medians are shown."
    compile: bool = False
    "Compile the model first: for GPUs; on CPU it gains nothing."
    graphs: bool = True
    "Run as CUDA graphs: faster on CUDA, without effect elsewhere."
    families: bool = False
    "All families at full size, with random weights, instead of a model."
    sizes: tuple[int, ...] = (256,)
    "With --families: pixels, 256, 512 or both with commas."
    entrants: str = ""
    "With --families: names with commas, such as var-d16,dit-xl-2 [default: all]"
    limit: float = 600.0
    "With --families: seconds after which the rest of an image is extrapolated."
    growth: bool = False
    "With --families: also time raster order and next-scale on grids from 8 to 64."
    report: str = ""
    "Show the results of --families in this JSON file instead of measuring; --plot draws them."
    json: str = ""
    "File for the results."
    plot: str = ""
    "File for a picture (png, svg, pdf); needs nextscale[eval]."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rounds")
        if not self.batch_sizes or min(self.batch_sizes) < 1 or len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ValueError(f"batch_sizes must be different numbers from 1, got {list(self.batch_sizes)}")
        if self.families and self.plot and not self.growth:
            raise ValueError("plot draws the growth with the grid; add --growth")
        if not self.limit > 0:
            raise ValueError(f"limit must be above 0 seconds, got {self.limit}")
        if self.families or self.report:
            changed = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
            if ignored := [name for name in changed if name not in OF_FAMILIES]:
                raise ValueError(f"{ignored[0]} is for one model; leave it out with --families and --report")


@accepts(BenchOptions, first=("model", "draft", "refine", "switch", "batch_sizes", "rounds", "families"))
def bench(*, config: ConfigFile = "", given: Any = None) -> None:
    """Time generation stage by stage, and compare it with the rate of one large matrix product."""
    options = settle(BenchOptions, given, file=config)
    if options.plot:
        from nextscale.plots import require_plots

        require_plots(options.plot)
    if options.report:
        present_families(options, read_json(Path(options.report)))
    elif options.families:
        bench_families(options)
    else:
        bench_model(options)


def bench_model(options: BenchOptions) -> None:
    """Measure one model, show it, and write what was asked for."""
    from nextscale.bench.machine import title_of
    from nextscale.bench.speed import measure_speed, plot_speed
    from nextscale.progress import Progress

    model, chosen = options.model_or_pair(options.model), options.sampling()
    pipeline = load_pipeline(model, options.device, options.precision)
    pipeline.use_graphs(options.graphs)
    if options.compile:
        pipeline.compile()
    progress = Progress((options.rounds + 1) * len(options.batch_sizes), title="batches", line_seconds=10)
    try:
        speeds = measure_speed(pipeline, options.batch_sizes, rounds=options.rounds, advance=progress.advance, **chosen)
    finally:
        progress.close()
    show_speeds(pipeline, model, speeds, {n: v for n, v in chosen.items() if v != getattr(BenchOptions, n)})
    path = path_taken(pipeline, options.precision)
    print(path)
    facts: dict[str, Any] = {"model": model, "settings": asdict(pipeline.sampling(**chosen))}
    facts |= {"precision": pipeline.precision, "path": path, "device": title_of(pipeline.device)}
    write_results(options.json, facts | {"batch_sizes": [speed.to_dict() for speed in speeds]})
    if options.plot:
        plot_speed(pipeline.schedule, speeds, Path(options.plot))


def path_taken(pipeline: VARPipeline, asked: str) -> str:
    """The precision of a pipeline, why it has that where such a `--precision` was asked for, and its kernels."""
    from nextscale.bench.machine import kernels_of
    from nextscale.runtime import reason_of

    model, device = pipeline.transformer, pipeline.device
    reason = reason_of(asked, device, parameters=pipeline.family.parameters(model))
    return f"{pipeline.precision}, {reason}; {kernels_of(model, device)}"


def show_speeds(pipeline: VARPipeline, model: str, speeds: list[GenerationSpeed], settings: dict[str, Any]) -> None:
    """Milliseconds per image of every stage, one column per batch size, and what follows from them.

    `settings` are those of the sampler that were asked for.
    """
    from rich.table import Table

    from nextscale.bench.machine import title_of

    asked = "".join(f", {name.replace('_', '-')} {show(value)}" for name, value in settings.items())
    title = f"{model}{asked}, {pipeline.precision}, {title_of(pipeline.device)}: ms per image"
    shown = Table("stage", *(f"batch {speed.times.batch}" for speed in speeds), title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    stages = [f"transformer {height}x{width}" for height, width in pipeline.schedule] + ["sampling", "decoder", "total"]
    for place, stage in enumerate(stages):
        seconds = [[*speed.times.by_stage(), speed.times.stages][place] / speed.times.batch for speed in speeds]
        shown.add_row(stage, *(f"{1000 * each:.2f}" for each in seconds), end_section=stage == "total")
    figures: dict[str, Callable[[GenerationSpeed], str]] = {
        ONE_CALL: lambda speed: f"{1000 * speed.times.total / speed.times.batch:.2f}",
        "slowest round / fastest": lambda speed: f"{speed.spread:.2f}",
        "images/s": lambda speed: f"{speed.images_per_second:.3g}",
        "GFLOP per image": lambda speed: f"{speed.flops_per_image / 1e9:.4g}",
        "of them decoding": lambda speed: f"{speed.decoder_flops_per_image / 1e9:.4g}",
        "GFLOP/s": lambda speed: f"{speed.flops_per_image * speed.images_per_second / 1e9:.0f}",
        "GFLOP/s of a large product": lambda speed: f"{speed.gemm_flops_per_second / 1e9:.0f}",
        "share of it": lambda speed: f"{speed.share_of_gemm:.0%}",
        "peak memory, MB": lambda speed: f"{speed.peak_bytes / 1e6:.0f}",
        "keys and values, MB per image": lambda speed: f"{speed.cache_bytes_per_image / 1e6:.3g}",
    }
    if speeds[0].times.whole is None:
        del figures[ONE_CALL]
    for name, figure in figures.items():
        shown.add_row(name, *map(figure, speeds))
    print_table(shown)


def bench_families(options: BenchOptions) -> None:
    """Measure, show, and write what was asked for. Raises ValueError for unknown names and sizes."""
    from nextscale.bench.full_size import measure_families, measure_growth
    from nextscale.runtime import resolve_device, resolve_generation_dtype

    device = resolve_device(options.device)
    dtype = resolve_generation_dtype(options.precision, device, parameters=10**9)  # all at the large ones' precision
    names = [name for name in options.entrants.split(",") if name]
    machine: dict[str, Any] = {"device": device, "dtype": dtype}
    with at_work() as progress:
        report = measure_families(options.sizes, names, limit=options.limit, progress=progress, **machine)
        if options.growth:
            report["growth"] = measure_growth(progress=progress, **machine)
    write_results(options.json, report)
    present_families(options, report)


def present_families(options: BenchOptions, report: dict[str, Any]) -> None:
    """Show a report, and draw its growth where a plot was asked for. Raises ValueError for other files."""
    if not {"models", "guidance", "bytes_per_second", "gemm_flops_per_second"} <= set(report):
        raise ValueError(f"{options.report}: holds no results of `nextscale bench --families`")
    if options.plot and "growth" not in report:
        raise ValueError(f"{options.report}: holds no growth with the grid to plot; measure it with --growth")
    show_families(report)
    if "growth" in report:
        show_growth(report["growth"])
    if options.plot:
        from nextscale.bench.full_size import plot_growth

        plot_growth(report["growth"], Path(options.plot))


def show_families(report: dict[str, Any]) -> None:
    """Times beside those of the first model of the same size, and what the machine allows."""
    bandwidth, gemm = report["bytes_per_second"], report["gemm_flops_per_second"]
    title = (
        f"one image, guidance {report['guidance']:g}, {report['precision']} on {report['device']}; large products "
        f"{gemm / 1e9:.0f} GFLOP/s, memory {bandwidth / 1e9:.1f} GB/s; ~ is extrapolated"
    )
    first = {row["size"]: row["seconds"] for row in reversed(report["models"])}
    rows = []
    for row in report["models"]:
        seconds, least = row["seconds"], row["roofline"]["seconds"]
        cells = [row["name"], str(row["size"]), f"{row['parameters'] / 1e6:.0f}M", str(row["steps"])]
        cells += [f"{row['flops'] / 1e12:.3g}", ("~" if row["measured"] < 1 else "") + f"{seconds:.3g}"]
        cells += [f"{seconds / first[row['size']]:.3g}", f"{least:.3g}", f"{least / seconds:.0%}"]
        rows.append([*cells, f"{row['bytes_per_second'] / bandwidth:.0%}"])
    columns = ["model", "pixels", "parameters", "steps", "TFLOP", "seconds", "relative", "roofline", "reached"]
    show_table(title, [*columns, "of the bandwidth"], rows)


def show_growth(growth: dict[str, Any]) -> None:
    """Steps, FLOPs and times over the grid's side, and their exponents beside the paper's."""
    rows = []
    for pair in zip(growth["var"]["rows"], growth["raster"]["rows"], strict=True):
        cells = [str(pair[0]["n"]), *(str(row["steps"]) for row in pair)]
        cells += [*(f"{row['flops'] / 1e9:.3g}" for row in pair), *(f"{row['seconds']:.3g}" for row in pair)]
        rows.append(cells)
    columns = [f"{name}, {kind}" for name in ("steps", "GFLOP", "seconds") for kind in ("var", "raster")]
    show_table(f"growth with the grid's side n, depth {growth['depth']}, no decoding", ["n", *columns], rows)
    rows = [
        [kind, *(f"{growth[kind]['exponents'][name]:.2f}" for name in ("steps", "flops", "seconds"))]
        for kind in ("var", "raster")
    ]
    rows += [["paper, next-scale", "log n", "4", ""], ["paper, raster", "2", "6", ""]]
    show_table("exponents of n", ["", "steps", "FLOPs", "seconds"], rows)
