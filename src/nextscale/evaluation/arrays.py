"""Arrays of .npz and .npy files: described by their headers, read as streams, never unpickled."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy

SUFFIXES = (".npz", ".npy")


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, not read yet."""

    path: Path
    member: str
    "Name of its file within an .npz; empty for an .npy."
    shape: tuple[int, ...]
    dtype: np.dtype
    columns_first: bool
    "Whether it is stored in Fortran's order."

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"

    @property
    def name(self) -> str:
        """Its name in the file: arr_0, mu, ..."""
        return Path(self.member).stem

    def read(self) -> np.ndarray:
        """The whole array. Raises ValueError in one line for Python objects and damaged files."""
        if self.dtype.hasobject:
            raise ValueError(f"{self.path}: {self.name} holds Python objects, which are not unpickled")
        with readable(self.path), open_array(self) as file:
            data = file.read(math.prod(self.shape) * self.dtype.itemsize)
            return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.columns_first else "C")

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """`rows` entries of the first axis at a time. Raises ValueError in one line for a damaged file."""
        assert not self.columns_first and not self.dtype.hasobject
        bytes_each = math.prod(self.shape[1:]) * self.dtype.itemsize
        with readable(self.path), open_array(self) as file:
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                data = file.read(count * bytes_each)
                if len(data) != count * bytes_each:
                    raise EOFError(f"it ends within {self.name or 'its array'}")
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """The arrays of a file by name; the one of an .npy is called "". Raises ValueError in one line."""
    found = {}
    with readable(path):
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return {"": array_at(path, "", file, path.stat().st_size)}
        with zipfile.ZipFile(path) as archive:
            for one in archive.infolist():
                if one.filename.endswith(".npy"):
                    with archive.open(one) as file:
                        found[Path(one.filename).stem] = array_at(path, one.filename, file, one.file_size)
    return found


def array_at(path: Path, member: str, file: Any, size: int) -> StoredArray:
    """The array at the start of a stream of `size` bytes. Raises ValueError where the stream is too short for it."""
    array = StoredArray(path, member, *header(file))
    if min(array.shape, default=0) < 0:
        raise ValueError(f"{array.name or 'the array'} has the shape {array.shape}")
    if not array.dtype.hasobject and size - file.tell() < math.prod(array.shape) * array.dtype.itemsize:
        raise ValueError(f"{array.name or 'the array'} ends before all of {array} is there")
    return array


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns every error that numpy and zipfile raise for a damaged file into a ValueError of one line."""
    try:
        yield
    except Exception as error:  # zlib, zipfile, struct, tokenize and others raise their own kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable {path.suffix} file ({reason})") from error


@contextmanager
def open_array(array: StoredArray) -> Iterator[Any]:
    """A stream of an array's bytes, from behind its header."""
    if not array.member:
        with array.path.open("rb") as file:
            header(file)
            yield file
        return
    with zipfile.ZipFile(array.path) as archive, archive.open(array.member) as file:
        header(file)
        yield io.BufferedReader(cast("io.RawIOBase", file))


def header(file: Any) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type, and whether columns come first, read from a .npy stream. Raises ValueError."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    return shape, dtype, columns_first and len(shape) > 1
