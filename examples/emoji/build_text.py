"""Build emoji with names and keywords, for models of text, at 64x64 or any other size.

    python examples/emoji/build_text.py --out data/emoji-text --size 128

Two styles, each a word of the prompt: `a red heart, flat` is Noto Emoji by Google (Apache-2.0), `a red heart, 3d` is
Fluent Emoji by Microsoft (MIT). Names and keywords are Unicode's CLDR (Unicode License v3). npm fetches the packages,
100 MB. Above 64 pixels Noto is drawn from vectors by resvg, which needs node; flags of countries are enlarged.

    train/         *.parquet: image (PNG on white), captions, name, style, label (9 categories)
    heldout/       every tenth emoji, in both styles and all skin tones
    combinations/  new combinations of words that training has: colours, skin tones, roles, families
    combinations.json   each of these with its two words and 20 names to tell it from: `evaluate text --questions`
    names.json          100 names of training, and all of them to tell each from
    NOTICE         where the pictures and names are from, and their licences

The same command writes the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from names import STYLES, Named, candidates_of, captions_of, combinations, questions, readable, split_of, summary
from packages import CATEGORIES, CLASSES, PACKAGE, fail, fetch, read_package
from PIL import Image

FLUENT, VECTORS = "@lobehub/fluent-emoji-3d@1.1.0", "@iconify-json/noto@1.2.9"
WORDS = {"annotations": "cldr-annotations-full@48.2.0", "annotationsDerived": "cldr-annotations-derived-full@48.2.0"}
RESVG = "@resvg/resvg-js@2.6.2"
UNDRAWN = ("1f4e6", "1f3f3-200d-1f308")
"""Vectors that end resvg: a package and a rainbow flag."""
DRAW = """
const { Resvg } = require('@resvg/resvg-js'), fs = require('fs')
const { size, icons, out } = JSON.parse(fs.readFileSync(0))
for (const [name, svg] of Object.entries(icons))
  fs.writeFileSync(`${out}/${name}.png`, new Resvg(svg, { fitTo: { mode: 'width', value: size } }).render().asPng())
"""
NOTICE = f"""Emoji with names, built by examples/emoji/build_text.py of nextscale.

Pictures in the style "flat": Noto Emoji, copyright Google, Apache License 2.0
  https://github.com/googlefonts/noto-emoji
  from the npm packages {PACKAGE} and {VECTORS}
  (flags of countries: public domain or exempt from copyright, as Noto Emoji says)
Pictures in the style "3d": Fluent Emoji, copyright Microsoft Corporation, MIT License
  https://github.com/microsoft/fluentui-emoji
  from the npm package {FLUENT}
Names and keywords: Unicode CLDR, copyright Unicode, Inc., Unicode License v3
  https://www.unicode.org/license.txt
  from the npm packages {" and ".join(WORDS.values())}

Changes: pictures were resized and laid over white, names were reworded.
"""


def named(entries: list[dict], words: dict[str, dict]) -> list[Named]:
    """Every emoji of the nine categories and its skin tones, in the order of the class set, by CLDR's names."""
    known = sorted((entry for entry in entries if entry["category"] in CATEGORIES), key=lambda entry: entry["image"])
    found = []
    for number, entry in enumerate(known):
        for version in (entry, *(v for _, v in sorted(entry.get("skin_variations", {}).items()))):
            code = plain(version["unified"])
            told = words.get(code, {})
            name = readable((told.get("tts") or [entry["name"].lower()])[0])
            keywords = tuple(word for word in told.get("default", []) if word != name)
            found.append(Named(code, name, keywords, CLASSES.index(CATEGORIES[entry["category"]]), number))
    return [*{one.name: one for one in reversed(found)}.values()][::-1]  # a name is one emoji


def plain(code: str) -> str:
    """Code points in lower case, with dashes, without the variation selector."""
    parts = code.lower().replace("_", "-").split("-")
    return "-".join(part for part in parts if part != "fe0f")


def read_words(archives: dict[str, Path]) -> dict[str, dict]:
    """CLDR's English names (`tts`) and keywords (`default`) by code points."""
    found = {}
    for kind, archive in archives.items():
        data = json.loads(next(files_of(archive, f"{kind}/en/annotations.json"))[1])
        for text, told in data[kind]["annotations"].items():
            found[plain("-".join(f"{ord(sign):x}" for sign in text))] = told
    return found


def files_of(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files of a package. Raises ValueError for another archive."""
    try:
        with tarfile.open(archive) as package:
            found = [member for member in package if member.isfile() and Path(member.name).match(pattern)]
            if not found:
                raise ValueError(f"{archive}: holds no {pattern}")
            for member in found:
                file = package.extractfile(member)
                assert file is not None, "a regular file"
                yield Path(member.name).name, file.read()
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: not an npm package ({error})") from error


def read_fluent(archive: Path) -> dict[str, bytes]:
    """Fluent's pictures by code points, without flags of countries, which Microsoft does not draw."""
    found = {plain(name.removesuffix(".webp")): data for name, data in files_of(archive, "assets/*.webp")}
    return {code: data for code, data in found.items() if not code.startswith("1f1")}


def draw_vectors(archive: Path, size: int, folder: Path) -> dict[str, bytes]:
    """Noto's pictures by code points, drawn from vectors by resvg, which npm installs into a folder."""
    names = json.loads(next(files_of(archive, "chars.json"))[1])
    icons = json.loads(next(files_of(archive, "icons.json"))[1])
    box = f'viewBox="0 0 {icons["width"]} {icons["height"]}"'
    bodies = {code: icons["icons"][name]["body"] for code, name in names.items() if name in icons["icons"]}
    wanted = {code: body for code, body in bodies.items() if code not in UNDRAWN}
    svgs = {code: f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{body}</svg>' for code, body in wanted.items()}
    out = folder / "drawn"
    out.mkdir()
    try:
        install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", RESVG]
        subprocess.run(install, cwd=folder, check=True, capture_output=True, text=True)
        given = json.dumps({"size": size, "icons": svgs, "out": str(out)})
        subprocess.run(["node", "-e", DRAW], cwd=folder, check=True, capture_output=True, text=True, input=given)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        fail(f"Noto could not be drawn by {RESVG} ({reason}); --size 64 needs no drawing")
    return {plain(file.stem): file.read_bytes() for file in out.glob("*.png")}


def on_white(data: bytes, size: int) -> bytes:
    """A picture as a square on white, as PNG."""
    with Image.open(io.BytesIO(data)) as image:
        whole = image.convert("RGBA")
    side = max(whole.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(whole, ((side - whole.width) // 2, (side - whole.height) // 2))
    buffer = io.BytesIO()
    square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def write_split(out: Path, split: str, chosen: Sequence[tuple[Named, str, bytes]], size: int) -> None:
    """Write one split's parquet file; its folder appears when complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, List, Value
    from datasets import Image as ImageFeature

    final, partial = out / split, out / f".{split}.partial"
    if final.exists():
        print(f"{final} is there already: left as it is")
        return
    rows = [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))]
    text = Value("string")
    kinds: Any = {"image": ImageFeature(), "captions": List(text), "name": text, "style": text}
    features = Features(kinds | {"label": ClassLabel(names=list(CLASSES))})
    columns = {
        "image": [{"bytes": on_white(data, size), "path": f"{one.code}-{style}.png"} for one, style, data in rows],
        "captions": [captions_of(one, style) for one, style, _ in rows],
        "name": [one.name for one, _, _ in rows],
        "style": [style for _, style, _ in rows],
        "label": [one.label for one, _, _ in rows],
    }
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    table = pa.table(columns, schema=features.arrow_schema)
    pq.write_table(table, partial / "00000.parquet", row_group_size=1000, compression="none")
    partial.rename(final)
    print(f"{split}: {len(rows):,} images")


def build(out: Path, size: int, packages: Path | None, temporary: Path) -> None:
    """Write the set. Raises ValueError for packages that are not the expected ones."""

    def package(name: str) -> Path:
        file = name.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz"
        return packages / file if packages else fetch(temporary, name, "--packages")

    entries, pictures = read_package(package(PACKAGE))
    noto = {plain(name.removesuffix(".png")): data for name, data in pictures.items()}
    if size > 64:
        sharp = draw_vectors(package(VECTORS), size, temporary)
        print(f"flat: {len(noto.keys() - sharp.keys())} pictures, flags of countries for the most part, are enlarged")
        noto |= {code: data for code, data in sharp.items() if code in noto}
    drawn: dict[str, dict[str, bytes]] = dict(zip(STYLES, (noto, read_fluent(package(FLUENT))), strict=True))
    emoji = [one for one in named(entries, read_words({k: package(v) for k, v in WORDS.items()})) if one.code in noto]
    held = combinations(emoji)
    splits = split_of(emoji, held)
    print(f"emoji: {summary(splits)}")
    for split in ("train", "heldout", "combinations"):
        chosen = [one for one, its in zip(emoji, splits, strict=True) if its == split]
        pairs = [(one, style) for one in chosen for style in STYLES if one.code in drawn[style]]
        images = [(one, style, drawn[style][one.code]) for one, style in pairs]
        write_split(out, split, images, size)
    order = np.random.default_rng(0)
    listed = [asdict(one) | {"candidates": candidates_of(one, emoji, order)} for one in held]
    for name, asked in (("combinations", {"questions": listed}), ("names", questions(emoji, splits))):
        (out / f"{name}.json").write_text(json.dumps(asked, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "NOTICE").write_text(NOTICE, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/emoji-text"), help="folder to write")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default 64)")
    parser.add_argument("--packages", type=Path, help="folder of the packages' .tgz files; without it npm fetches them")
    options = parser.parse_args()
    if not 8 <= options.size <= 256:
        fail(f"--size must be between 8 and 256, got {options.size}")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            build(options.out, options.size, options.packages, Path(temporary))
        except ValueError as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename or options.out}: {error.strerror or error}")
    print(f"wrote {options.out}/train, heldout, combinations, combinations.json, names.json and NOTICE")


if __name__ == "__main__":
    main()
