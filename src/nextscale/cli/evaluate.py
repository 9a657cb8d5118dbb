"""`nextscale evaluate generation`: figures as a table and JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.evaluation.generation import GenerationEvaluation, evaluate_generation
from nextscale.files import write_json

NAMES = {
    "frechet": "Frechet distance", "kernel": "kernel distance x 1000", "inception_score": "Inception score",
    "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage",
    "class_accuracy": "class accuracy",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GenerationCommand(GenerationEvaluation):
    """Settings, and a place for the report."""

    json: str = ""
    "File for the report besides OUT/report.json."


@accepts(GenerationCommand)
def generation(*, config: ConfigFile = "", given: Any = None) -> None:
    """Measure generated images, or any others, against real ones."""
    options = settle(GenerationCommand, given, file=config)
    from nextscale.runtime import retain_freed_memory
    from nextscale.training.distributed import launched, wait_for_all

    retain_freed_memory()
    processes = launched()
    stages = Stages(enabled=processes.is_main)
    try:
        report = evaluate_generation(options, processes=processes, wait=wait_for_all, progress=stages.start)
    finally:
        stages.close()
    if not processes.is_main:
        return
    write_json(Path(options.out) / "report.json", report)
    if options.json:
        write_json(Path(options.json), report)
    show(report)


class Stages:
    """One progress line after the other."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.current: Any = None

    def start(self, title: str, total: int) -> Callable[[int], None]:
        from nextscale.progress import Progress

        self.close()
        self.current = Progress(total, title=title, line_seconds=20, enabled=self.enabled)
        return self.current.advance

    def close(self) -> None:
        if self.current is not None:
            self.current.close()
            self.current = None


def show(report: dict[str, Any]) -> None:
    """The report as a table: the floor beside the figures."""
    from rich.console import Console
    from rich.table import Table

    features, reference = report["features"], report["reference"]
    what = report["of"].get("model") or report["of"]["images"]
    sets = f"{len(report['sets'])} sets of " if len(report["sets"]) > 1 else ""
    title = f"{what}: {sets}{report['count']} images, {features['name']} features ({features['size']})"
    table = Table("figure", "real against real", "measured", "deviation over sets", title=title, title_justify="left")
    floor = report["floor"] or {}
    for name, label in NAMES.items():
        if name in report["mean"]:
            values = floor.get(name), report["mean"][name], report["deviation"][name]
            table.add_row(label, *("" if v is None else number(name, v) for v in values))
    Console().print(table)
    if floor:
        Console().print(f"real against real: {floor['count']} images on each side")
    count = f"{reference['count']} images of" if reference["count"] else "statistics in"
    Console().print(f"reference: {count} {reference['data']}")


def number(name: str, value: float) -> str:
    """A figure as it is printed."""
    return f"{1000 * value:.3f}" if name == "kernel" else f"{value:.4f}" if value < 10 else f"{value:.2f}"
