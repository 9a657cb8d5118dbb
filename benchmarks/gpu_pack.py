"""Wheels in one small archive, and back: libraries without debug symbols, pictures as lossless WebP, all in xz.

    python benchmarks/gpu_pack.py WHEELS ARCHIVE             # a folder of wheels
    python benchmarks/gpu_pack.py --unpack ARCHIVE FOLDER    # the packages, to be put on PYTHONPATH

Pixels stay what they are, which packing checks; Procgen's renderer shrinks from 48 to 29 MB. What its library needs of
this system beside the C and C++ runtime may be missing on a machine without a display: it comes along in `LIBRARIES`.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

LEFT_BEHIND = ("diffusers/pipelines/", "diffusers/models/", "procgen/examples/")
"""Parts of packages that nothing here imports."""
SMALLEST = 4096
"""Bytes of a PNG that is worth another format."""
LIBRARIES = "system-libraries"
RUNTIME = ("libc", "libm", "libdl", "librt", "libpthread", "libresolv", "libstdc++", "libgcc_s", "libz")
"""Libraries that every machine has in a version that fits it."""


def pack(wheels: Path, archive: Path) -> None:
    """Pack all wheels of a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as file:
                for member in file.namelist():
                    if not member.startswith(LEFT_BEHIND) or member.endswith("/__init__.py"):
                        file.extract(member, folder)
        for library in folder.glob("procgen/data/prebuilt/*.so"):
            for needed in system_libraries(library, folder):
                (folder / LIBRARIES).mkdir(exist_ok=True)
                shutil.copy(needed, folder / LIBRARIES / needed.name)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        with ThreadPoolExecutor() as pool:
            list(pool.map(shrink, files))
        with tarfile.open(archive, "w:xz", preset=9) as packed:
            packed.add(folder, ".")


def system_libraries(library: Path, own: Path) -> list[Path]:
    """What a library loads, all that loads included, that neither lies in the folder `own` nor belongs to `RUNTIME`.

    Raises SystemExit for what this system lacks.
    """
    said = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    if "not found" in said:
        raise SystemExit(f"{library.name} needs libraries that are not installed here:\n{said}")
    found = [Path(words[2]) for words in map(str.split, said.splitlines()) if words[1:2] == ["=>"]]
    return [path for path in found if own not in path.parents and path.name.split(".so")[0] not in RUNTIME]


def shrink(path: Path) -> None:
    """Make one file smaller where that is possible."""
    if ".so" in path.name and shutil.which("strip"):
        stripped = path.with_name(f"{path.name}.stripped")
        subprocess.run(["strip", "--strip-unneeded", "-o", stripped, path], check=True)
        stripped.replace(path)
    elif path.suffix == ".png" and path.stat().st_size > SMALLEST:
        image = Image.open(path)
        if image.mode not in ("RGB", "RGBA"):
            return
        data = io.BytesIO()
        image.save(data, "WEBP", lossless=True, quality=100, method=4, exact=True)
        again = Image.open(io.BytesIO(data.getvalue())).convert(image.mode)
        if again.tobytes() == image.tobytes() and len(data.getvalue()) < path.stat().st_size:
            path.with_suffix(".png.webp").write_bytes(data.getvalue())
            path.unlink()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into a folder that may hold other packages."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    with ThreadPoolExecutor() as pool:
        list(pool.map(restore, folder.rglob("*.png.webp")))


def restore(path: Path) -> None:
    """Turn a picture back into what its name says."""
    Image.open(path).save(path.with_suffix(""), compress_level=1)
    path.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "--unpack":
        unpack(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        pack(Path(sys.argv[1]), Path(sys.argv[2]))
