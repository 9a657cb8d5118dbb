"""Build an emoji image set from the npm package emoji-datasource-google: 9 categories, 64x64.

    python examples/emoji/build.py --out data/emoji

fetches the package (74 MB) with npm and writes `train/*.parquet` and `heldout/*.parquet` with the columns `image` (PNG
on white) and `label`. Skin tones are images of their own, on the side of their base emoji: every tenth base is held
out. The same command writes the same bytes. The pictures are Noto Emoji, Apache-2.0. `build_text.py` builds a set
with names, for models of text.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from packages import CATEGORIES, CLASSES, fail, fetch, read_package

HELDOUT_EVERY = 10


@dataclass(frozen=True)
class Emoji:
    """One picture of the package."""

    file: str
    label: int
    heldout: bool


def listed(entries: list[dict]) -> list[Emoji]:
    """Every picture of the nine categories, in the package's order."""
    known = sorted((e for e in entries if e["category"] in CATEGORIES), key=lambda e: e["image"])
    found = []
    for number, entry in enumerate(known):
        label, heldout = CLASSES.index(CATEGORIES[entry["category"]]), number % HELDOUT_EVERY == 0
        versions = [entry, *(v for _, v in sorted(entry.get("skin_variations", {}).items()))]
        found += [Emoji(v["image"], label, heldout) for v in versions if v.get("has_img_google")]
    return found


def png(data: bytes) -> bytes:
    """A picture on white, as PNG."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        whole = image.convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    buffer = io.BytesIO()
    Image.alpha_composite(white, whole).convert("RGB").save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def write_split(out: Path, split: str, emoji: list[Emoji], pictures: dict[str, bytes]) -> None:
    """Write one split's parquet file; its folder appears when complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image

    final, partial = out / split, out / f".{split}.partial"
    if final.exists():
        print(f"{final} is there already: left as it is")
        return
    order = np.random.default_rng(0).permutation(len(emoji))
    chosen = [emoji[i] for i in order]
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    rows = [{"bytes": png(pictures[one.file]), "path": one.file} for one in chosen]
    table = pa.table({"image": rows, "label": [one.label for one in chosen]}, schema=features.arrow_schema)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pq.write_table(table, partial / "00000.parquet", row_group_size=1000, compression="none")
    partial.rename(final)
    print(f"{split}: {len(emoji):,} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/emoji"), help="folder to write")
    parser.add_argument("--package", type=Path, help="the package's .tgz file; without it npm fetches it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            entries, pictures = read_package(options.package or fetch(Path(temporary)))
            emoji = [one for one in listed(entries) if one.file in pictures]
            for split in ("train", "heldout"):
                part = [one for one in emoji if one.heldout == (split == "heldout")]
                write_split(options.out, split, part, pictures)
        except ValueError as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename or options.out}: {error.strerror or error}")
    print(f"wrote {options.out}/train and {options.out}/heldout")


if __name__ == "__main__":
    main()
