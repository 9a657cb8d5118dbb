"""Images to be measured: any `--data`, or the guided-diffusion evaluator's .npz files, which are written too.

An .npz file holds `arr_0`, (N, H, W, 3) uint8, or only statistics, `mu` (D,) and `sigma` (D, D). It is read as it
streams by and never unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from nextscale.data.loader import NO_CLASS, Reader, to_float
from nextscale.data.source import ImageSource, open_source
from nextscale.data.transform import center_crop
from nextscale.evaluation.frechet import FeatureStatistics
from nextscale.files import complete_file

IMAGES = "arr_0"


@dataclass(frozen=True)
class NpzImages:
    """Images of an .npz file, in its order."""

    path: Path
    shape: tuple[int, int, int, int]  # (N, H, W, 3)

    def __len__(self) -> int:
        return self.shape[0]


ImageSet = ImageSource | NpzImages


def open_image_set(spec: str, **columns: str) -> ImageSet | FeatureStatistics:
    """Images, or the statistics an .npz file holds instead; `columns` as `open_source` has them. Raises ValueError."""
    return open_npz(Path(spec)) if spec.endswith(".npz") else open_source(spec, **columns)


def open_images_alone(spec: str, **columns: str) -> ImageSet:
    """Images; statistics alone are refused. Raises ValueError."""
    images = open_image_set(spec, **columns)
    if isinstance(images, FeatureStatistics):
        raise ValueError(f"{spec}: holds statistics; what is measured must be images")
    return images


def open_npz(path: Path) -> NpzImages | FeatureStatistics:
    """Look into an .npz file. Raises ValueError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).stem: name for name in archive.namelist()}
            if IMAGES in names:
                with archive.open(names[IMAGES]) as file:
                    shape, order, dtype = header(file)
                if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or order:
                    raise ValueError(f"{path}: {IMAGES} is {shape} {dtype}, expected (N, H, W, 3) uint8")
                return NpzImages(path, shape)
            if {"mu", "sigma"} <= set(names):
                with np.load(path, allow_pickle=False) as arrays:
                    mean, covariance = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
                if covariance.shape != (len(mean), len(mean)):
                    raise ValueError(f"{path}: mu is {tuple(mean.shape)}, sigma {tuple(covariance.shape)}")
                return FeatureStatistics(mean, covariance, 0)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error})") from error
    raise ValueError(f"{path}: holds {', '.join(names) or 'nothing'}; expected {IMAGES}, or mu and sigma")


def header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of a .npy stream."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)


def image_size(images: ImageSet) -> tuple[int, int]:
    """Height and width of the first readable image."""
    if isinstance(images, NpzImages):
        return images.shape[1:3]
    first, _, _ = Reader(images).read_next(0, np.asarray)
    return first.shape[:2]  # pyright: ignore[reportReturnType]


def batches(
    images: ImageSet, size: tuple[int, int], *, batch_size: int, indices: np.ndarray | None = None, exact: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images in [-1, 1], (B, 3, H, W), and labels (B,), in the order of `indices`; unreadable ones are an error.

    Images are resized to cover `size` and cropped in the centre; with `exact`, another size raises ValueError.
    """
    if isinstance(images, NpzImages):
        yield from npz_batches(images, size, batch_size, indices)
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
            stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            yield to_float(stacked), torch.tensor(labels, dtype=torch.int64)
            pixels, labels = [], []


def npz_batches(
    images: NpzImages, size: tuple[int, int], batch_size: int, indices: np.ndarray | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `batches`; a selection is read in the file's order."""
    if images.shape[1:3] != size:
        raise ValueError(
            f"{images.path}: images are {images.shape[1]} x {images.shape[2]}, expected {size[0]} x {size[1]}"
        )
    wanted = np.ones(len(images), dtype=bool) if indices is None else np.isin(np.arange(len(images)), indices)
    bytes_each = int(np.prod(images.shape[1:]))
    with zipfile.ZipFile(images.path) as archive:
        names = {Path(name).stem: name for name in archive.namelist()}
        with archive.open(names[IMAGES]) as file:
            header(file)
            for start in range(0, len(images), batch_size):
                count = min(batch_size, len(images) - start)
                data = file.read(count * bytes_each)
                if len(data) != count * bytes_each:
                    raise ValueError(f"{images.path}: ends in the middle of its images")
                pixels = np.frombuffer(data, np.uint8).reshape(count, *images.shape[1:])[wanted[start : start + count]]
                if len(pixels):
                    yield (
                        to_float(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)),
                        torch.full((len(pixels),), NO_CLASS),
                    )


def write_npz_images(path: Path, images: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> None:
    """Write images (H, W, 3) uint8 as `arr_0`, (N, H, W, 3), one at a time; the file appears when complete."""
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        complete_file(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as file,
    ):
        npy.write_array_header_1_0(file, described)
        for image in images:
            file.write(np.ascontiguousarray(image).tobytes())


def write_npz_statistics(path: Path, statistics: FeatureStatistics) -> None:
    """Write `mu` and `sigma`; the file appears when complete."""
    with complete_file(path) as partial, partial.open("wb") as file:
        np.savez(file, mu=statistics.mean.numpy(), sigma=statistics.covariance.numpy())
