"""The figures of a run: RUN/metrics.jsonl, a line a step, and the same for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nextscale.config import read_json_lines
from nextscale.files import complete_file, unwritable

LOG = "metrics.jsonl"


class Metrics:
    """JSON lines and TensorBoard; on resume, what was cut off and later lines than the checkpoint are dropped."""

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / LOG
        if self.path.exists():
            kept = [line for line in self.lines() if line["step"] <= start] if start else []
            with complete_file(self.path) as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers and lists of numbers (one per scale) of a step."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from error
        for name, value in values.items():
            if isinstance(value, list):
                for scale, part in enumerate(value):
                    self.board.add_scalar(f"{name}/scale{scale + 1}", part, step)
            elif isinstance(value, (int, float)):
                self.board.add_scalar(name, value, step)

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return read_json_lines(self.path)

    def close(self) -> None:
        self.board.close()
