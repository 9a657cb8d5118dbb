"""`nextscale bench --families`: all families at full size, and how they grow with the grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.files import write_json

if TYPE_CHECKING:
    from nextscale.cli.bench import BenchOptions


def bench_families(options: BenchOptions) -> None:
    """Measure, show, and write what was asked for. Raises ValueError for unknown names and sizes."""
    from nextscale.evaluation.full_size import measure_families, measure_growth
    from nextscale.progress import Stages
    from nextscale.runtime import resolve_device, resolve_generation_dtype, retain_freed_memory

    device = resolve_device(options.device)
    dtype = resolve_generation_dtype(options.precision, device, parameters=10**9)  # all at the large ones' precision
    retain_freed_memory()
    with Stages() as stages:
        report = measure_families(
            options.sizes, [name for name in options.entrants.split(",") if name], device=device, dtype=dtype,
            limit=options.limit, progress=stages.start,
        )  # fmt: skip
        if options.growth:
            report["growth"] = measure_growth(device=device, dtype=dtype, progress=stages.start)
    if options.json:
        write_json(Path(options.json), report)
    present_families(options, report)


def present_families(options: BenchOptions, report: dict[str, Any]) -> None:
    """Show a report, and draw its growth where a plot was asked for. Raises ValueError for other files."""
    if not {"models", "guidance", "bytes_per_second", "gemm_flops_per_second"} <= set(report):
        raise ValueError(f"{options.report}: holds no results of `nextscale bench --families`")
    if options.plot and "growth" not in report:
        raise ValueError(f"{options.report}: holds no growth with the grid to plot; measure it with --growth")
    show_families(report)
    if options.plot:
        from nextscale.evaluation.plots import plot_growth

        plot_growth(report["growth"], Path(options.plot))


def show_families(report: dict[str, Any]) -> None:
    """Times per size beside the first model's, and the exponents of growth beside the paper's."""
    from nextscale.cli.evaluate import table

    bandwidth, gemm = report["bytes_per_second"], report["gemm_flops_per_second"]
    title = (
        f"one image, guidance {report['guidance']:g}, {report['precision']} on {report['device']}; large products "
        f"{gemm / 1e9:.0f} GFLOP/s, memory {bandwidth / 1e9:.1f} GB/s; ~ is extrapolated"
    )
    first = {row["size"]: row["seconds"] for row in reversed(report["models"])}
    rows = [
        (
            row["name"], str(row["size"]), f"{row['parameters'] / 1e6:.0f}M", str(row["steps"]),
            f"{row['flops'] / 1e12:.3g}", ("~" if row["measured"] < 1 else "") + f"{row['seconds']:.3g}",
            f"{row['seconds'] / first[row['size']]:.3g}", f"{row['roofline']['seconds']:.3g}",
            f"{row['roofline']['seconds'] / row['seconds']:.0%}", f"{row['bytes_per_second'] / bandwidth:.0%}",
        )
        for row in report["models"]
    ]  # fmt: skip
    columns = ("model", "pixels", "parameters", "steps", "TFLOP", "seconds", "relative", "roofline", "reached",
               "of the bandwidth")  # fmt: skip
    table(title, columns, rows)
    if "growth" not in report:
        return
    growth = report["growth"]
    rows = [
        (
            str(pair[0]["n"]), *(str(row["steps"]) for row in pair), *(f"{row['flops'] / 1e9:.3g}" for row in pair),
            *(f"{row['seconds']:.3g}" for row in pair),
        )
        for pair in zip(growth["var"]["rows"], growth["raster"]["rows"], strict=True)
    ]  # fmt: skip
    columns = tuple(f"{name}, {kind}" for name in ("steps", "GFLOP", "seconds") for kind in ("var", "raster"))
    table(f"growth with the grid's side n, depth {growth['depth']}, no decoding", ("n", *columns), rows)
    rows = [
        (kind, *(f"{growth[kind]['exponents'][name]:.2f}" for name in ("steps", "flops", "seconds")))
        for kind in ("var", "raster")
    ]
    said = (("paper, next-scale", "log n", "4", ""), ("paper, raster", "2", "6", ""))
    table("exponents of n", ("", "steps", "FLOPs", "seconds"), [*rows, *said])
