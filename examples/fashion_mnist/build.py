"""Build the Fashion-MNIST image set from Debian's package: 10 classes, 28x28 grey.

    python examples/fashion_mnist/build.py --out data/fashion_mnist

fetches `dataset-fashion-mnist` (31 MB) with apt where it is not installed, without root rights, and writes
`train/*.parquet` (60,000 images) and `heldout/*.parquet` (10,000) with the columns `image` (PNG) and `label`.
The same command writes the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("usr/share/datasets/fashion-mnist")
SPLITS = {"train": "train", "heldout": "t10k"}
IMAGE_MAGIC, LABEL_MAGIC = 2051, 2049


def fetch(folder: Path) -> Path:
    """Download and unpack the package into a folder; returns where its data lies."""
    try:
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True, capture_output=True, text=True)
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        fail(f"{PACKAGE} could not be fetched with apt ({reason}); give a folder with its idx files with --idx")
    return folder / INSTALLED


def read_idx(path: Path, magic: int) -> np.ndarray:
    """An idx file: big-endian header (magic, sizes), then bytes. Raises ValueError on another file."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header = np.frombuffer(data, dtype=">i4", count=1 + magic % 256)
    if header[0] != magic:
        raise ValueError(f"{path}: starts with {header[0]}, expected {magic}: not the idx file it should be")
    return np.frombuffer(data, dtype=np.uint8, offset=4 * len(header)).reshape(header[1:])


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def write_split(out: Path, split: str, source: Path) -> None:
    """Write one split's parquet file; its folder appears when complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image

    final, partial = out / split, out / f".{split}.partial"
    if final.exists():
        print(f"{final} is there already: left as it is")
        return
    suffix = "" if (source / f"{SPLITS[split]}-images-idx3-ubyte").exists() else ".gz"
    images = read_idx(source / f"{SPLITS[split]}-images-idx3-ubyte{suffix}", IMAGE_MAGIC)
    labels = read_idx(source / f"{SPLITS[split]}-labels-idx1-ubyte{suffix}", LABEL_MAGIC)
    order = np.random.default_rng(0).permutation(len(images))
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    rows = [{"bytes": png(images[i]), "path": f"{SPLITS[split]}-{i:05d}.png"} for i in order]
    table = pa.table({"image": rows, "label": labels[order].astype(np.int64)}, schema=features.arrow_schema)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pq.write_table(table, partial / "00000.parquet", row_group_size=1000, compression="none")
    partial.rename(final)
    print(f"{split}: {len(images):,} images")


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/fashion_mnist"), help="folder to write")
    parser.add_argument("--idx", type=Path, help="folder with the idx files; without it they are fetched")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        installed = Path("/") / INSTALLED
        source = options.idx or (installed if installed.is_dir() else fetch(Path(temporary)))
        try:
            for split in SPLITS:
                write_split(options.out, split, source)
        except ValueError as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename or options.out}: {error.strerror or error}")
    print(f"wrote {options.out}/train and {options.out}/heldout")


if __name__ == "__main__":
    main()
