"""Images to be measured: any `--data`, or arrays of images in .npz and .npy files as guided-diffusion's evaluator has.

Such a file holds one array of uint8, (N, H, W, 3), (N, 3, H, W) or grey, in an .npz called `arr_0`, with labels as
`arr_1` or `labels` where there are any; or statistics, `mu` (D,) and `sigma` (D, D); or both, as published reference
batches do.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from nextscale.data.decode import center_crop
from nextscale.data.loader import NO_CLASS, Reader
from nextscale.data.source import ImageSource, open_source
from nextscale.evaluation.arrays import SUFFIXES, StoredArray, stored_arrays
from nextscale.evaluation.statistics import StoredStatistics, read_statistics
from nextscale.files import complete_file
from nextscale.pictures import to_float, to_images, to_tensor

logger = logging.getLogger("nextscale.evaluation")

IMAGES = "arr_0"
LABELS = ("arr_1", "labels", "label")
STATISTICS = {"mu", "sigma"}
EXPECTED = "uint8 images (N, H, W, 3), (N, 3, H, W) or grey (N, H, W)"


@dataclass(frozen=True)
class ArrayImages:
    """Images of an .npz or .npy file, in its order."""

    array: StoredArray
    shape: tuple[int, int, int, int]
    "(N, H, W, channels)"
    channels_first: bool
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    statistics: StoredStatistics | None = None
    "Statistics of a larger set, which published reference batches have beside their images."

    @property
    def path(self) -> Path:
        return self.array.path

    def __len__(self) -> int:
        return self.shape[0]


ImageSet = ImageSource | ArrayImages


def open_image_set(spec: str, **columns: str) -> ImageSet | StoredStatistics:
    """Images, or the statistics of an .npz file; `columns` are those of `open_source`. Raises ValueError."""
    return open_arrays(Path(spec)) if Path(spec).suffix.lower() in SUFFIXES else open_source(spec, **columns)


def open_images_alone(spec: str, **columns: str) -> ImageSet:
    """Images. Raises ValueError, also for statistics alone."""
    images = open_image_set(spec, **columns)
    if isinstance(images, StoredStatistics):
        raise ValueError(f"{spec}: holds statistics; what is measured must be images")
    return images


def open_arrays(path: Path) -> ArrayImages | StoredStatistics:
    """The images or the statistics of an .npz or .npy file. Raises ValueError in one line."""
    arrays = stored_arrays(path)
    statistics = read_statistics(path, arrays) if set(arrays) >= STATISTICS else None
    chosen = chosen_images(path, arrays)
    if chosen is None:
        if statistics is not None:
            return statistics
        held = ", ".join(f"{name} {array}".strip() for name, array in arrays.items())
        raise ValueError(f"{path}: holds {held or 'nothing'}; expected {IMAGES}, {EXPECTED}, or mu and sigma")
    shape, channels_first = image_layout(path, chosen)
    found = next((arrays[name] for name in LABELS if may_be_labels(arrays.get(name), shape[0])), None)
    labels, names = (None, ()) if found is None else read_array_labels(path, found)
    others = [name for name in arrays if arrays[name] not in (chosen, found) and name not in STATISTICS]
    if others:
        logger.info("%s: passed over beside its images: %s", path, ", ".join(f"{n} {arrays[n]}" for n in others))
    return ArrayImages(chosen, shape, channels_first, labels, names, statistics)


def chosen_images(path: Path, arrays: Mapping[str, StoredArray]) -> StoredArray | None:
    """`arr_0`, the array of an .npy, or the only array that may be images; None where there is none."""
    for name in (IMAGES, ""):
        if name in arrays:
            return arrays[name]
    found = [array for array in arrays.values() if array.dtype == np.uint8 and len(array.shape) in (3, 4)]
    if len(found) != 1:
        return None
    logger.info("%s: its images are taken from the array %s", path, found[0].name)
    return found[0]


def image_layout(path: Path, array: StoredArray) -> tuple[tuple[int, int, int, int], bool]:
    """(N, H, W, channels), and whether channels come first in the file. Raises ValueError for other arrays."""
    shape, named = array.shape, array.name or "the array"
    if array.dtype.hasobject:
        raise ValueError(f"{path}: {named} holds Python objects, which are not unpickled; expected {EXPECTED}")
    if array.columns_first:
        raise ValueError(f"{path}: {named} is in Fortran's order; write numpy.ascontiguousarray of it")
    if array.dtype == np.uint8 and 0 not in shape:
        if len(shape) == 3 and shape[2] not in (1, 3, 4):
            return (*shape, 1), False
        if len(shape) == 4 and shape[3] in (1, 3):
            return shape, False
        if len(shape) == 4 and shape[1] in (1, 3):
            return (shape[0], shape[2], shape[3], shape[1]), True
    raise ValueError(f"{path}: {named} is {array}, expected {EXPECTED}")


def may_be_labels(array: StoredArray | None, count: int) -> bool:
    """Whether an array holds one integer for each image."""
    return array is not None and array.shape == (count,) and array.dtype.kind in "iu"


def read_array_labels(path: Path, array: StoredArray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) counted from 0, and the class names: the numbers that occur in the file. Raises ValueError."""
    numbers, labels = np.unique(array.read(), return_inverse=True)
    if numbers[0] < 0:
        raise ValueError(f"{path}: {array.name} holds the label {numbers[0]}; expected numbers from 0")
    return labels.astype(np.int64), tuple(map(str, numbers.tolist()))


def image_size(images: ImageSet) -> tuple[int, int]:
    """Height and width of the first readable image."""
    if isinstance(images, ArrayImages):
        return images.shape[1:3]
    first = Reader(images).read_next(0, np.asarray).pixels
    return first.shape[0], first.shape[1]


def require_size(images: ImageSet, size: tuple[int, int]) -> None:
    """Raises ValueError for arrays of another size; images of other data are resized."""
    if isinstance(images, ArrayImages) and images.shape[1:3] != size:
        height, width = images.shape[1:3]
        raise ValueError(f"{images.path}: images are {height} x {width}, expected {size[0]} x {size[1]}")


def batches(
    images: ImageSet, size: tuple[int, int], *, batch_size: int, indices: np.ndarray | None = None, exact: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, 3, H, W) in [-1, 1] and labels (B,), in the order of `indices`; an unreadable image is an error.

    Images are resized to cover `size` and cropped in the centre; with `exact`, another size raises ValueError.
    """
    if isinstance(images, ArrayImages):
        yield from array_batches(images, size, batch_size, indices)
        return
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    chosen = np.arange(len(images)) if indices is None else indices
    for place, index in enumerate(chosen, 1):
        image, label = images.read(int(index))
        if exact and image.size != (size[1], size[0]):
            raise ValueError(
                f"{images.name(int(index))}: is {image.size[1]} x {image.size[0]} pixels, the others are "
                f"{size[0]} x {size[1]}; images to be measured must all have one size"
            )
        pixels.append(center_crop(image, size))
        labels.append(NO_CLASS if label is None else label)
        if len(pixels) == batch_size or place == len(chosen):
            yield to_tensor(pixels), torch.tensor(labels, dtype=torch.int64)
            pixels, labels = [], []


def array_batches(
    images: ArrayImages, size: tuple[int, int], batch_size: int, indices: np.ndarray | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `batches`, but always in the order of the file."""
    require_size(images, size)
    wanted = np.ones(len(images), dtype=bool) if indices is None else np.isin(np.arange(len(images)), indices)
    labels = np.full(len(images), NO_CLASS) if images.labels is None else images.labels
    start = 0
    for block in images.array.blocks(batch_size):
        rows = start + np.flatnonzero(wanted[start : start + len(block)])
        if len(rows):
            pixels = torch.from_numpy(block[rows - start])  # a copy: the block is read-only
            if not images.channels_first:
                pixels = pixels.reshape(len(rows), *images.shape[1:]).permute(0, 3, 1, 2)
            yield to_float(pixels.expand(-1, 3, -1, -1)), torch.from_numpy(labels[rows])
        start += len(block)


def read_images(images: ImageSet, indices: np.ndarray, size: tuple[int, int]) -> dict[int, Image.Image]:
    """Images by their indices, which are sorted and unique; resized to cover `size` and cropped."""
    pixels = torch.cat([part for part, _ in batches(images, size, batch_size=64, indices=indices)])
    return dict(zip(indices.tolist(), to_images(pixels), strict=True))


def write_npz_images(path: Path, images: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> None:
    """Write images (H, W, 3) uint8, one at a time, as `arr_0` of shape (N, H, W, 3); the file appears when complete."""
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        complete_file(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as file,
    ):
        npy.write_array_header_1_0(file, described)
        for image in images:
            file.write(np.ascontiguousarray(image).tobytes())
