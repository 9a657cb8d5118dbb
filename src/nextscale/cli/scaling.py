"""`nextscale scaling run`, `ablation`, `fit`, `plot` and `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from nextscale.cli.options import PANELS, ConfigFile, Json, accepts, settle, whole_number
from nextscale.cli.outputs import at_work, write_results
from nextscale.cli.tables import FIGURES, figure_text, show_table
from nextscale.config import read_json
from nextscale.errors import require
from nextscale.scaling.config import Ablation, ScalingRun

ABLATION_DATA = ("images", "data", "heldout", "tokenizer", "raster_data", "raster_heldout", "raster_tokenizer")
Picture = Annotated[str, Parameter(help="Picture (png, svg, pdf).", group=PANELS["Main settings"], metavar="FILE")]
Depth = Annotated[
    int, Parameter(help="Depth to predict.", group=PANELS["Main settings"], metavar="N", converter=whole_number)
]


@dataclass(frozen=True, kw_only=True)
class ScalingCommand(ScalingRun):
    """Settings, and a file for all results."""

    json: str = ""
    "File for the results of all depths that are done."


@accepts(ScalingCommand, first=("data", "tokenizer", "heldout", "kind", "depths", "images", "out", "seed"))
def run(*, config: ConfigFile = "", given: Any = None) -> None:
    """Train a family of depths on the same fresh images; a run that was stopped continues."""
    options = settle(ScalingCommand, given, file=config)
    from nextscale.runtime import retain_freed_memory
    from nextscale.scaling.fits import read_results
    from nextscale.scaling.runs import run_depths

    retain_freed_memory()
    done = run_depths(options)
    if done:
        write_results(options.json, {"results": read_results(done)})
    print(f"{len(done)} of {len(options.depths)} depths are done: {options.out}")


@dataclass(frozen=True, kw_only=True)
class AblationCommand(Ablation):
    """Settings, and a file for all results."""

    json: str = ""
    "File for the results of all rows that are done."


@accepts(AblationCommand, first=(*ABLATION_DATA, "rows", "seeds", "out"))
def ablation(*, config: ConfigFile = "", given: Any = None) -> None:
    """Train and measure the rows of the paper's ablation; one that was stopped continues."""
    options = settle(AblationCommand, given, file=config)
    require("the table of an ablation", "scipy")  # at its end, hours later
    from nextscale.scaling.ablation import run_ablation

    with at_work() as progress:
        results = run_ablation(options, progress=progress)
    write_results(options.json, {"ablation": results})
    show_ablation(results)


def fit(*results: str, json: Json = "") -> None:
    """Fit power laws of loss and token error, and forecast the largest depth from the others.

    Files may hold an ablation's results as well or instead, whose table is then shown.

    Parameters
    ----------
    results
        Folders of scaling runs, or JSON files.
    """
    require("a fit", "scipy")
    from nextscale.scaling.ablation import read_ablation, summarise

    rows = read_ablation(results)
    others = tuple(file for file in results if Path(file).is_dir() or set(read_json(Path(file))) != {"ablation"})
    reports = [report for _, report in fitted_kinds(others)] if others or not rows else []
    for report in reports:
        show_laws(report)
    if rows:
        show_ablation(rows)
    write_results(json, {"fits": reports} | ({"ablation": summarise(rows)} if rows else {}))


def plot(*results: str, out: Picture = "out/scaling.png") -> None:
    """Draw the laws as the paper does, its exponents beside ours.

    Parameters
    ----------
    results
        Folders of scaling runs, or their JSON files.
    """
    from nextscale.plots import require_plots
    from nextscale.scaling.fits import plot_laws

    require_plots(out)
    require("a fit", "scipy")
    for points, report in fitted_kinds(results):
        path = Path(out)
        path = path if report["kind"] == "var" else path.with_name(f"{path.stem}-{report['kind']}{path.suffix}")
        plot_laws(points, report, path)
        print(path)


def predict(*results: str, depth: Depth, json: Json = "") -> None:
    """Predict losses of another depth from the laws.

    Parameters
    ----------
    results
        Folders of scaling runs, or their JSON files.
    """
    from nextscale.scaling.fits import predict_depth

    require("a fit", "scipy")
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    predicted = {report["kind"]: predict_depth(points, depth) for points, report in fitted_kinds(results)}
    for kind, values in predicted.items():
        for name, value in values.items():
            print(f"{kind}-d{depth} {name}: {value['power_law']:.4f} (with a floor {value['above_floor']:.4f})")
    write_results(json, {"depth": depth, "predicted": predicted})


def fitted_kinds(files: tuple[str, ...]) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """The results of each kind of model, and their fits. Raises ValueError."""
    from nextscale.scaling.fits import fit_family, read_results

    if not files:
        raise ValueError("no results given; name folders of `nextscale scaling run`, or JSON files")
    results = read_results(files)
    kinds = dict.fromkeys(one["kind"] for one in results)
    groups = [[one for one in results if one["kind"] == kind] for kind in kinds]
    return [(group, fit_family(group)) for group in groups]


def show_ablation(results: list[dict[str, Any]]) -> None:
    """The rows of an ablation as a table, over their seeds."""
    from nextscale.scaling.ablation import summarise

    rows, first = summarise(results), results[0]
    names = [name for name in FIGURES if all(name in row["mean"] for row in rows)]
    shown = []
    for row in rows:
        figures = [figure_text(name, row["mean"][name], row["half_width"].get(name)) for name in names]
        shown.append((row["title"], str(row["seeds"]), *figures, f"{row['published_fid']:.2f}"))
    title = f"ablation: {first['images_seen']} images seen, {first['count']} measured, {first['features']} features"
    show_table(title, ("", "seeds", *(FIGURES[name] for name in names), "published FID (ImageNet)"), shown)


def show_laws(report: dict[str, Any]) -> None:
    """The laws of one kind of model as a table."""
    from nextscale.scaling.fits import FIGURES as TITLES

    rows = []
    for name, title in TITLES.items():
        laws = report[name]
        law, floored, compute = laws["parameters"], laws["parameters_above_floor"], laws.get("compute_frontier")
        low, high = law["exponent_interval"]
        row = [title, power("N", law, 1e9), f"{low:.4f} .. {high:.4f}", f"{law['correlation']:.4f}"]
        row += [f"{floored['floor']:.4f} + {power('N', floored, 1e9)}", power("C", compute, 1e15) if compute else ""]
        if forecast := laws.get("forecast"):
            error = forecast["relative_error"]
            row.append(f"{forecast['predicted']:.4f} for {forecast['measured']:.4f} ({error:+.2%})")
        rows.append(row)
    columns = ("", "N in billions", "95 % of the exponent", "correlation", "above a floor", "frontier, C in PFLOP")
    depths = [f"d{depth}" for depth in report["depths"]]
    show_table(f"{report['kind']}: {', '.join(depths)}", (*columns, f"{depths[-1]} from the others"), rows)


def power(name: str, law: dict[str, Any], unit: float) -> str:
    """A power law of a quantity in this unit."""
    return f"({law['scale'] * unit:.4g} {name})^{law['exponent']:.4f}"
