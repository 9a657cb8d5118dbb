"""Whether losses are finite, without waiting for the device in every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nextscale.checkpoint import save_torch
from nextscale.errors import TrainingDiverged
from nextscale.training.parallel import any_process
from nextscale.training.transfer import Late


@dataclass(frozen=True)
class Seen:
    """A step whose loss is on its way, and what it was computed from."""

    step: int
    loss: Late
    batch: dict[str, Tensor]


class LossWatch:
    """Raises TrainingDiverged, with the batch saved, when the loss of any process is not a finite number.

    The loss of a step is read when the next step has been queued, or by `look`, which comes before anything is
    recorded, saved or exported. Until then a step may have been taken from weights that are no numbers. All processes
    must call.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.newest: Seen | None = None

    def note(self, step: int, loss: Tensor, batch: dict[str, Tensor]) -> None:
        """Keep a step's loss, and look at that of the step before."""
        before, self.newest = self.newest, Seen(step, Late(loss), batch)
        if before is not None:
            self.require_finite(before)

    def look(self) -> None:
        """Look at the newest step now."""
        newest, self.newest = self.newest, None
        if newest is not None:
            self.require_finite(newest)

    def require_finite(self, seen: Seen) -> None:
        """Raises TrainingDiverged."""
        loss = seen.loss.read()
        if not any_process(not math.isfinite(loss)):
            return
        path = self.folder / f"non-finite-step-{seen.step:08d}-rank-{self.rank}.pt"
        save_torch({name: tensor.detach().cpu() for name, tensor in seen.batch.items()}, path)
        raise TrainingDiverged(
            f"the loss is {loss} at step {seen.step}; its batch is in {path}. "
            "--resume goes on from the last checkpoint; if it happens again, lower --learning-rate or --clip"
        )
