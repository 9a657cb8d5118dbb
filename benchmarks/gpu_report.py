"""The results of gpu.py as tables in Markdown."""

from __future__ import annotations

from typing import Any

GOALS = (
    ("d16, batch 1, ms", ("speed d16", "batch 1"), "ms", 8, 5),
    ("d30, batch 1, ms", ("speed d30", "batch 1"), "ms", 24, 3),
    ("d16, batch 64, images/s", ("speed d16", "batch 64"), "images_per_s", 300, 2),
    ("d30, batch 64, images/s", ("speed d30", "batch 64"), "images_per_s", 90, 1.6),
    ("d16 training, batch 32, images/s", ("training",), "images_per_s", 450, 1.5),
    ("d16 training, share of the card's bf16 rate", ("training",), "share of the card's rate", 0.4, 1.5),
)
"""Title, where the row lies, its figure, what it should be on an H100, and how often as fast as the authors' code."""


def table(values: dict[str, Any]) -> str:
    """A table of all rows that were timed, then all other results, stage by stage."""
    about = ", ".join(f"{name} {value}" for name, value in values.items() if name != "stages")
    lines = [about, "", *timed_rows(values["stages"]), "", *goal_rows(values["stages"]), ""]
    for stage, found in values["stages"].items():
        lines += [f"**{stage}**", ""]
        for name, value in found.items():
            if not is_table(value):
                lines.append(f"- {name}: {plain(value)}")
        lines.append("")
    return "\n".join(lines)


def is_row(value: Any) -> bool:
    return isinstance(value, dict) and "first_gib" in value


def is_table(value: Any) -> bool:
    return is_row(value) or (isinstance(value, dict) and any(is_row(row) for row in value.values()))


def timed_rows(stages: dict[str, Any]) -> list[str]:
    """Everything that was timed."""
    lines = [
        "| stage | | | ms | fastest to slowest | images/s | GiB above the weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage, found in stages.items():
        for name, value in found.items():
            rows = {"": value} if is_row(value) else value if is_table(value) else {}
            for way, row in rows.items():
                if "ms" in row:
                    spread = f"{row['fastest']:.2f} to {row['slowest']:.2f}"
                    figures = [
                        f"{row['ms']:.2f}",
                        spread,
                        f"{row.get('images_per_s', 0):.1f}",
                        f"{row['first_gib']:.2f}",
                    ]
                else:
                    figures = [row.get("error", "no time").strip().splitlines()[-1][:100], "", "", ""]
                lines.append(f"| {stage} | {name} | {way} | {' | '.join(figures)} |")
    return lines


def plain(value: Any) -> str:
    """A result in one line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items() if name != "output")
    text = str(value).strip()
    return text.splitlines()[-1] if "\n" in text else text


def goal_rows(stages: dict[str, Any]) -> list[str]:
    """What was aimed at beside what was reached."""
    lines = ["| goal | wanted | reached | times the authors' code: wanted | reached |", "|---|---|---|---|---|"]
    for title, path, figure, wanted, ratio in GOALS:
        found: Any = stages
        for name in path:
            found = found.get(name, {}) if isinstance(found, dict) else {}
        ours = found.get("ours, compiled") or found.get("ours") or {}
        theirs = found.get("authors'", {})
        reached, other = ours.get(figure), theirs.get("ms")
        times = f"{other / ours['ms']:.2f}" if other and ours.get("ms") else "not measured"
        shown = "not measured" if reached is None else f"{reached:.3g}"
        lines.append(f"| {title} | {wanted:g} | {shown} | {ratio:g} | {times} |")
    equal = stages.get("correctness", {}).get("fp32 tokens equal to the CPU's")
    lines.append(f"| float32 tokens equal to the CPU's | 0.9999 | {'not measured' if equal is None else equal} | | |")
    return lines
