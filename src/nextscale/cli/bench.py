"""`nextscale bench`: where the time of a generation goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cli.options import ConfigFile, SamplingFlags, accepts, settle
from nextscale.cli.tables import print_table
from nextscale.config import read_json, require_at_least
from nextscale.files import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from nextscale.evaluation.speed import GenerationSpeed
    from nextscale.pipeline import VARPipeline


@dataclass(frozen=True, kw_only=True)
class BenchOptions(SamplingFlags):
    """Settings of `nextscale bench`."""

    model: str = "demo"
    "demo, var-d16 ..., a model or run folder, a hub id, or random:var-d16 for an official size without its weights."
    batch_sizes: tuple[int, ...] = (1, 8)
    "Images at once, with commas."
    rounds: int = 3
    "Rounds over all batch sizes after one to warm up; medians are shown."
    compile: bool = False
    "Compile the model first: for GPUs; on CPU it gains nothing."
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


@accepts(BenchOptions, first=("model", "batch_sizes", "rounds", "families"))
def bench(*, config: ConfigFile = "", given: Any = None) -> None:
    """Time generation stage by stage, and compare it with the rate of one large matrix product."""
    options = settle(BenchOptions, given, file=config)
    if options.plot:
        from nextscale.evaluation.plots import require_plots

        require_plots(options.plot)
    if options.report:
        from nextscale.cli.full_size import present_families

        present_families(options, read_json(Path(options.report)))
        return
    if options.families:
        from nextscale.cli.full_size import bench_families

        bench_families(options)
        return
    from nextscale.evaluation.speed import measure_speed
    from nextscale.pipeline import VARPipeline
    from nextscale.progress import Progress
    from nextscale.runtime import retain_freed_memory

    pipeline = VARPipeline.from_pretrained(options.model, device=options.device, dtype=options.precision)
    retain_freed_memory()  # not before: what loading frees should go back
    if options.compile:
        pipeline.compile()
    chosen = options.sampling()
    progress = Progress((options.rounds + 1) * len(options.batch_sizes), title="batches", line_seconds=10)
    try:
        speeds = measure_speed(pipeline, options.batch_sizes, rounds=options.rounds, advance=progress.advance, **chosen)
    finally:
        progress.close()
    print_table(table(pipeline, options.model, speeds))
    if options.json:
        facts = {"model": options.model, "precision": pipeline.precision, "device": str(pipeline.device)}
        write_json(Path(options.json), facts | {"batch_sizes": [speed.to_dict() for speed in speeds]})
    if options.plot:
        from nextscale.evaluation.plots import plot_speed

        plot_speed(pipeline.schedule, speeds, Path(options.plot))


def table(pipeline: VARPipeline, model: str, speeds: list[GenerationSpeed]) -> Table:
    """Milliseconds per image of every stage, one column per batch size, and what follows from them."""
    from rich.table import Table

    title = f"{model}, {pipeline.precision}, {pipeline.device}: ms per image"
    shown = Table("stage", *(f"batch {speed.times.batch}" for speed in speeds), title=title)
    for column in shown.columns[1:]:
        column.justify = "right"

    def row(name: str, *values: str, **options: Any) -> None:
        shown.add_row(name, *values, **options)

    def per_image(seconds: list[float]) -> list[str]:
        return [f"{1000 * s / speed.times.batch:.1f}" for s, speed in zip(seconds, speeds, strict=True)]

    for scale, (height, width) in enumerate(pipeline.schedule):
        row(f"transformer {height}x{width}", *per_image([speed.times.transformer[scale] for speed in speeds]))
    row("sampling", *per_image([sum(speed.times.sampling) for speed in speeds]))
    row("decoder", *per_image([speed.times.decode for speed in speeds]))
    row("total", *per_image([speed.times.total for speed in speeds]), end_section=True)
    row("slowest round / fastest", *(f"{speed.spread:.2f}" for speed in speeds))
    row("images/s", *(f"{speed.images_per_second:.3g}" for speed in speeds))
    row("GFLOP per image", *(f"{speed.flops_per_image / 1e9:.4g}" for speed in speeds))
    row("GFLOP/s", *(f"{speed.flops_per_image * speed.images_per_second / 1e9:.0f}" for speed in speeds))
    row("GFLOP/s of a large product", *(f"{speed.gemm_flops_per_second / 1e9:.0f}" for speed in speeds))
    row("share of it", *(f"{speed.share_of_gemm:.0%}" for speed in speeds))
    row("peak memory, MB", *(f"{speed.peak_bytes / 1e6:.0f}" for speed in speeds))
    row("keys and values, MB per image", *(f"{speed.cache_bytes_per_image / 1e6:.3g}" for speed in speeds))
    return shown
