"""The schedule of scales and the pyramid of token maps, which all other parts use.

Shapes: B batch, K scales, L tokens of the whole sequence, (h_k, w_k) the token map of scale k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class ScaleSchedule:
    """Token-map sizes from coarse to fine: r_1 ... r_K in the paper (section 3.2).

    `sizes` takes integers (square maps) or (height, width) pairs. Repeats, a single scale, a first scale above 1x1 and
    non-square maps are allowed. Raises ValueError where a scale is smaller than the one before.
    """

    sizes: tuple[Size, ...]
    "Height and width of every token map."

    def __init__(self, sizes: Sequence[int | Sequence[int]]) -> None:
        object.__setattr__(self, "sizes", tuple(_as_size(size) for size in sizes))
        if not self.sizes:
            raise ValueError("a scale schedule needs at least one size, for example 1,2,3,4,6,8")
        for before, after in pairwise(self.sizes):
            if after[0] < before[0] or after[1] < before[1]:
                raise ValueError(
                    f"scale sizes must not shrink: {before[0]}x{before[1]} is followed by {after[0]}x{after[1]}"
                )

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Size]:
        return iter(self.sizes)

    def __getitem__(self, scale: int) -> Size:
        return self.sizes[scale]

    @property
    def final(self) -> Size:
        """Height and width of the last token map, which is also the latent grid's."""
        return self.sizes[-1]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each scale, h_k * w_k."""
        return tuple(height * width for height, width in self.sizes)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """End position of each scale in the packed sequence."""
        return tuple(accumulate(self.lengths))

    @property
    def length(self) -> int:
        """Tokens of the whole sequence, L = sum_k h_k w_k."""
        return self.ends[-1]

    def slice(self, scale: int) -> slice:
        """Positions of one scale in the packed sequence."""
        end = self.ends[scale]
        return slice(end - self.lengths[scale], end)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Positions of every scale in the packed sequence."""
        return tuple(self.slice(scale) for scale in range(len(self)))

    def levels(self) -> Tensor:
        """Scale index of every position, (L,) int64."""
        import torch  # not above: settings hold schedules, and are read without torch

        # On the CPU even where a model is being built on another device, such as meta.
        scales, lengths = torch.arange(len(self), device="cpu"), torch.tensor(self.lengths, device="cpu")
        return torch.repeat_interleave(scales, lengths)

    def mask(self, *, coarser: bool = True) -> Tensor:
        """Block-wise causal attention mask, (L, L) bool: True where query (row) may see key (column).

        Without `coarser`, a scale sees itself alone.
        """
        levels = self.levels()
        return levels[:, None] >= levels[None, :] if coarser else levels[:, None] == levels[None, :]

    def groups(self, smallest: int) -> tuple[slice, ...]:
        """Positions in runs of scales, each of at least `smallest` tokens unless there are fewer in all."""
        ends = [0]
        for end in self.ends:
            if end - ends[-1] >= smallest:
                ends.append(end)
        if ends[-1] != self.length:  # what is left joins the last run
            ends = [*ends[: max(1, len(ends) - 1)], self.length]
        return tuple(slice(start, end) for start, end in pairwise(ends))

    def to_list(self) -> list[list[int]]:
        """Heights and widths as JSON holds them."""
        return [list(size) for size in self.sizes]

    def __str__(self) -> str:
        return ",".join(str(h) if h == w else f"{h}x{w}" for h, w in self.sizes)


def _as_size(size: int | Sequence[int]) -> Size:
    match tuple(size) if isinstance(size, (tuple, list)) else (size, size):
        case (int(height), int(width)) if height >= 1 and width >= 1:
            return height, width
    raise ValueError(f"a scale size is a positive integer or a (height, width) pair, got {size!r}")


def parse_schedule(text: str) -> ScaleSchedule:
    """Schedule from text such as "1,2,3,4,6,8" or "1x2,2x4,4x8" (height x width)."""
    sizes: list[int | Sequence[int]] = []
    for part in text.split(","):
        numbers = part.strip().lower().split("x")
        if not all(number.isdigit() for number in numbers) or len(numbers) > 2:
            raise ValueError(f"scales: {part.strip()!r} is not a size; expected 1,2,3 or 1x2,2x4 (height x width)")
        sizes.append(int(numbers[0]) if len(numbers) == 1 else tuple(int(number) for number in numbers))
    return ScaleSchedule(sizes)


class TokenPyramid:
    """Token maps of a batch of images, coarse to fine, stored as one packed sequence.

    `packed` is (B, L) int64; `pyramid[k]` is the map of scale k, (B, h_k, w_k), a view.
    Raises ValueError when the shape or type of `packed` does not fit the schedule.
    """

    def __init__(self, packed: Tensor, schedule: ScaleSchedule) -> None:
        import torch

        if packed.ndim != 2 or packed.shape[1] != schedule.length:
            raise ValueError(
                f"packed tokens must be (batch, {schedule.length}) for the schedule {schedule}, "
                f"got {tuple(packed.shape)}"
            )
        if packed.is_floating_point() or packed.dtype == torch.bool:
            raise ValueError(f"tokens must be integers, got {packed.dtype}")
        self.packed = packed.long()
        self.schedule = schedule

    @classmethod
    def from_maps(cls, maps: Sequence[Tensor], schedule: ScaleSchedule) -> TokenPyramid:
        """Pack one (B, h_k, w_k) integer map per scale."""
        import torch

        if len(maps) != len(schedule):
            raise ValueError(f"expected {len(schedule)} token maps, got {len(maps)}")
        for scale, (tokens, size) in enumerate(zip(maps, schedule, strict=True)):
            if tuple(tokens.shape[1:]) != size:
                raise ValueError(f"token map {scale} must be (batch, {size[0]}, {size[1]}), got {tuple(tokens.shape)}")
        return cls(torch.cat([tokens.flatten(1) for tokens in maps], dim=1), schedule)

    @property
    def batch_size(self) -> int:
        """Number of images, B."""
        return self.packed.shape[0]

    def __len__(self) -> int:
        """Number of scales, K."""
        return len(self.schedule)

    def __getitem__(self, scale: int) -> Tensor:
        height, width = self.schedule[scale]
        return self.packed[:, self.schedule.slice(scale)].view(-1, height, width)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[scale] for scale in range(len(self)))

    def select(self, images: Tensor | slice | Sequence[int]) -> TokenPyramid:
        """The pyramid of some of the images."""
        return TokenPyramid(self.packed[images], self.schedule)

    def to(self, device: torch.device | str) -> TokenPyramid:
        """The same tokens on another device."""
        return TokenPyramid(self.packed.to(device), self.schedule)

    def __repr__(self) -> str:
        return f"TokenPyramid(batch={self.batch_size}, scales={self.schedule})"
