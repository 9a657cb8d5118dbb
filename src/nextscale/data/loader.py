"""Batches of images whose order and augmentation are pure functions of (seed, step, sample).

There is no state to save: a run resumes by asking for batches from a later step, and the global batch is the same
whatever the number of processes.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import count
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.data.decode import UnreadableImage, center_crop, random_crop
from nextscale.data.source import ImageSource
from nextscale.pictures import stack_pixels

logger = logging.getLogger("nextscale.data")

NO_CLASS = -1
"""Label of an image without a class."""
BATCHES_AHEAD = 3
"""Batches that are read before they are asked for."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sample:
    """An image as it was cropped."""

    pixels: np.ndarray  # (H, W, 3) uint8
    label: int  # NO_CLASS without classes
    index: int  # position in the source
    captions: tuple[str, ...] | None = None  # None where the source has none of any image


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images on the CPU."""

    images: Tensor
    "(B, 3, H, W) uint8."
    labels: Tensor
    "(B,) int64, -1 without classes."
    indices: Tensor
    "(B,) int64, positions in the source."
    epochs: Tensor
    "(B,) int64."
    captions: list[tuple[str, ...]] | None = None
    "All captions of each of the B images; None where the source has none."
    position: dict[str, Any] | None = None
    "Of a stream, behind this batch."


@lru_cache(maxsize=2)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation, (length,) int64."""
    return np.random.default_rng([seed, epoch]).permutation(length)


def batch_indices(
    length: int, batch_size: int, step: int, *, seed: int, rank: int = 0, world: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a step's batch and the epoch of each, both (batch_size // world,) int64.

    Epochs follow one another without a gap, so that any length goes with any batch size. Rank r takes the r-th
    contiguous part of the global batch.
    """
    share = batch_size // world
    positions = np.arange(share, dtype=np.int64) + step * batch_size + rank * share
    epochs, offsets = np.divmod(positions, length)
    indices = np.array([epoch_order(length, seed, int(e))[o] for e, o in zip(epochs, offsets, strict=True)])
    return indices, epochs


class Reader:
    """Reads samples as arrays, and counts the unreadable ones up to a limit."""

    def __init__(self, source: ImageSource, *, limit: int = 100) -> None:
        self.source = source
        self.limit = limit
        self.unreadable: dict[int, str] = {}
        self.failure = ""
        self.lock = Lock()

    def read(self, index: int, crop: Callable[[Image.Image], np.ndarray]) -> Sample | None:
        """A sample, its pixels as `crop` makes them; None where it cannot be read.

        Raises ValueError once more than `limit` images were unreadable, or if all were.
        """
        try:
            image, label = self.source.read(index)
        except UnreadableImage as error:
            with self.lock:  # several threads read ahead
                self._count(index, str(error))
            if self.failure:
                raise ValueError(self.failure) from error
            return None
        captions = None if self.source.captions is None else self.source.captions_of(index)
        return Sample(crop(image), NO_CLASS if label is None else label, index, captions)

    def _count(self, index: int, error: str) -> None:
        """Count an unreadable image; one above the limit sets `failure`, which ends the counting."""
        if self.failure or index in self.unreadable:
            return
        self.unreadable[index] = error
        logger.warning("skipped unreadable image %s (%d so far)", error, len(self.unreadable))
        if len(self.unreadable) > self.limit or len(self.unreadable) == len(self.source):
            some = "; ".join(list(self.unreadable.values())[:3])
            self.failure = (
                f"{len(self.unreadable)} of {len(self.source)} images cannot be read, more than the "
                f"{min(self.limit, len(self.source) - 1)} allowed (first: {some}); remove or replace them"
            )

    def read_next(self, index: int, crop: Callable[[Image.Image], np.ndarray]) -> Sample:
        """Like `read`, but an unreadable image is replaced by the next readable one."""
        while (sample := self.read(index, crop)) is None:
            index = (index + 1) % len(self.source)
        return sample


def decoding_threads() -> int:
    """One for each core that this process may use, or for its share of them where torchrun started several."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def read_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Results in the items' order; threads work on up to `ahead` further items."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def require_readable(source: ImageSource, *, limit: int = 100) -> None:
    """Raises ValueError when more than the first `limit` images cannot be read: a check before anything is written."""
    Reader(source, limit=limit).read_next(0, np.asarray)


def collate(
    samples: Sequence[Sample],
    epochs: Sequence[int] | np.ndarray,
    position: dict[str, Any] | None = None,
    *,
    pinned: bool = False,
) -> ImageBatch:
    """A batch of samples; `pinned` pixels are copied to a CUDA device without waiting."""
    images = stack_pixels([sample.pixels for sample in samples])
    captions = [sample.captions for sample in samples if sample.captions is not None]
    return ImageBatch(
        images.pin_memory() if pinned else images,
        torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        torch.as_tensor(epochs, dtype=torch.int64),
        captions or None,
        position,
    )


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Settings of one process's training batches."""

    size: tuple[int, int]
    "Height and width in pixels."
    batch_size: int
    "Images of all processes together."
    seed: int = 0
    rank: int = 0
    world: int = 1
    enlarge: float = 1.125
    "Size of the image before the random crop, as a multiple of the crop; at 1, an image of its size stays whole."
    flip: bool = False
    "Whether half of the images are mirrored."
    limit: int = 100
    "Unreadable images tolerated."
    threads: int = field(default_factory=decoding_threads)
    "Threads that read and crop images."
    pinned: bool = False
    "Whether the pixels go to a CUDA device."

    def augmented(self, image: Image.Image, epoch: int, number: int) -> np.ndarray:
        """A random crop (H, W, 3) of an image: a function of (seed, epoch, number) alone."""
        generator = np.random.default_rng([self.seed, epoch, number])
        return random_crop(image, self.size, generator=generator, enlarge=self.enlarge, flip=self.flip)


@dataclass(frozen=True, kw_only=True)
class ImageLoader(Loader):
    """Endless augmented training batches of one process, by index."""

    source: ImageSource

    def batches(self, start: int = 0) -> Generator[ImageBatch, None, None]:
        """Batches from step `start` on. Threads read ahead; the order does not depend on them."""
        reader = Reader(self.source, limit=self.limit)
        readers = ThreadPoolExecutor(self.threads, thread_name_prefix="images")

        def read(index: int, epoch: int) -> Sample:
            return reader.read_next(index, partial(self.augmented, epoch=epoch, number=index))

        def build(step: int) -> ImageBatch:
            indices, epochs = batch_indices(
                len(self.source), self.batch_size, step, seed=self.seed, rank=self.rank, world=self.world
            )
            return collate(list(readers.map(read, indices.tolist(), epochs.tolist())), epochs, pinned=self.pinned)

        try:
            yield from read_ahead(build, count(start), threads=BATCHES_AHEAD, ahead=BATCHES_AHEAD - 1)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def iterate_images(
    source: ImageSource,
    size: tuple[int, int],
    *,
    batch_size: int,
    indices: Iterable[int] | None = None,
    crop: Callable[[Image.Image, int], np.ndarray] | None = None,
    reader: Reader | None = None,
) -> Iterator[ImageBatch]:
    """One pass in order, skipping unreadable images; the last batch may be short.

    `crop` maps an image and its index to (H, W, 3) uint8; by default the centre is cropped. Passes that share
    a `reader` share its count of unreadable images.
    """
    reader = reader or Reader(source)
    crop = crop or (lambda image, index: center_crop(image, size))

    def read(index: int) -> Sample | None:
        return reader.read(index, lambda image: crop(image, index))

    samples: list[Sample] = []
    chosen = indices if indices is not None else range(len(source))
    for sample in read_ahead(read, chosen, threads=decoding_threads(), ahead=2 * batch_size):
        if sample is not None:
            samples.append(sample)
        if len(samples) == batch_size:
            yield collate(samples, [0] * len(samples))
            samples = []
    if samples:
        yield collate(samples, [0] * len(samples))
