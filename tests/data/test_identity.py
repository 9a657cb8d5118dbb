"""Which changes of data are noticed, and which are none."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from nextscale.data.identity import DataIdentity, data_identity, stamp
from nextscale.data.source import open_source
from nextscale.data.stream import open_stream
from nextscale.data.tokens import TokenCacheConfig, open_tokens
from nextscale.training.tokens import write_tokens
from toys import CLASS_NAMES, make_tokenizer, png, toy_image, write_parquet, write_table, write_tar

Make = Callable[..., Path]


def identity(spec: Path | str) -> DataIdentity:
    return data_identity(open_source(spec))


def test_moved_and_respelled_folders_are_the_same(
    tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder("images", per_class=2)
    first = identity(folder)
    assert (first.count, first.class_names) == (6, CLASS_NAMES)
    shutil.copytree(folder, tmp_path / "else" / "where")
    linked = tmp_path / "linked"
    linked.mkdir()
    for title in CLASS_NAMES:
        (linked / title).symlink_to(folder / title)
    monkeypatch.chdir(tmp_path)
    for spec in (tmp_path / "else" / "where", linked, "images", f"{folder}/", "else/../images"):
        assert identity(spec) == first, spec


@pytest.mark.parametrize("flat", [False, True])
def test_changed_folders_are_others(image_folder: Make, flat: bool) -> None:
    folder = image_folder(per_class=2, flat=flat)
    seen = {identity(folder)}
    first = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    toy_image(0, 9).save(first.with_name("zzz.png"))
    seen.add(identity(folder))
    first.rename(first.with_name("aaa.png"))
    seen.add(identity(folder))
    toy_image(0, 0, 24).save(first.with_name("aaa.png"))
    seen.add(identity(folder))
    if not flat:
        (folder / "green").rename(folder / "grass")
        seen.add(identity(folder))
    assert len(seen) == (4 if flat else 5)


def table(path: Path, labels: list[str], numbers: list[int]) -> Path:
    rows = {"image": [{"bytes": png(0, n), "path": None} for n in numbers], "label": labels}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_rows_are_known_by_what_they_hold(tmp_path: Path) -> None:
    first = identity(table(tmp_path / "a" / "x.parquet", ["p", "q", "q"], [0, 1, 2]))
    assert first.count == 3
    assert identity(table(tmp_path / "b" / "y.parquet", ["p", "q", "q"], [0, 1, 2])) == first
    others = [
        (["p", "p", "q"], [0, 1, 2]),
        (["p", "r", "r"], [0, 1, 2]),
        (["p", "q", "q"], [0, 1, 3]),
        (["p", "q", "q", "q"], [0, 1, 2, 3]),
    ]
    made = {identity(table(tmp_path / f"{n}.parquet", *other)) for n, other in enumerate(others)}
    assert len(made | {first}) == 5


def tar(path: Path, numbers: list[int]) -> Path:
    parts = ((number, suffix) for number in numbers for suffix in ("png", "cls"))
    return write_tar(path, {f"{n:03d}.{s}": png(n, n) if s == "png" else str(n % 2).encode() for n, s in parts})


def test_archives_are_known_by_their_members(tmp_path: Path) -> None:
    first = identity(tar(tmp_path / "a" / "x.tar", [0, 1, 2]))
    assert first.count == 3 and first.class_names == ("0", "1")
    (tmp_path / "b").mkdir()
    assert identity((tmp_path / "a" / "x.tar").rename(tmp_path / "b" / "y.tar")) == first
    here = stamp(open_source(tmp_path / "b" / "y.tar"))
    assert stamp(open_source(tmp_path / "b" / "y.tar")) == here
    assert identity(tar(tmp_path / "b" / "y.tar", [0, 1, 3])) != first
    assert stamp(open_source(tmp_path / "b" / "y.tar")) != here


def test_tables_that_name_files(tmp_path: Path, image_folder: Make) -> None:
    folder = image_folder("one", per_class=1)
    names = [f"{title}/000.png" for title in CLASS_NAMES]
    write_table(folder / "x.parquet", ["p", "q", "q"], images=names)
    first, here = identity(folder / "x.parquet"), stamp(open_source(folder / "x.parquet"))
    shutil.copytree(folder, tmp_path / "two")
    assert identity(tmp_path / "two" / "x.parquet") == first
    toy_image(0, 0, 24).save(folder / "red" / "000.png")
    assert identity(folder / "x.parquet") != first
    assert stamp(open_source(folder / "x.parquet")) != here
    before = {identity(folder / "x.parquet"), first}
    (folder / "red" / "000.png").unlink()  # which its reader says
    assert identity(folder / "x.parquet") not in before


def test_selected_rows_are_those_that_are_left(tmp_path: Path) -> None:
    source = open_source(table(tmp_path / "x.parquet", ["p", "q", "q"], [0, 1, 2]))
    assert isinstance(source.labels, np.ndarray)
    fewer = replace(source, rows=source.rows.select([1, 2]), labels=source.labels[[1, 2]])
    alone = open_source(table(tmp_path / "y.parquet", ["p", "q", "q"], [9, 1, 2]))
    assert isinstance(alone.labels, np.ndarray)
    same = replace(alone, rows=alone.rows.select([1, 2]), labels=alone.labels[[1, 2]])
    assert data_identity(fewer) == data_identity(same) != data_identity(source)


def test_streams(tmp_path: Path) -> None:
    write_parquet(tmp_path / "here")
    first = data_identity(open_stream(str(tmp_path / "here")))
    assert first.class_names == CLASS_NAMES
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert data_identity(open_stream(str(tmp_path / "there") + "/")) == first
    write_parquet(tmp_path / "more", files=5)
    assert data_identity(open_stream(str(tmp_path / "more"))) != first


def test_tokens(tmp_path: Path, image_folder: Make) -> None:
    def made(name: str, folder: Path, seed: int = 0, **settings: Any) -> DataIdentity:
        tokenizer = make_tokenizer(seed)
        config = TokenCacheConfig(data=str(folder), scales=tokenizer.config.scales, codebook_size=32, **settings)
        return data_identity(open_tokens(write_tokens(tokenizer, open_source(folder), tmp_path / name, config)))

    folder = image_folder(per_class=2)
    first = made("a", folder)
    assert (first.count, first.class_names) == (6, CLASS_NAMES)
    (tmp_path / "a").rename(tmp_path / "moved")
    assert data_identity(open_tokens(tmp_path / "moved")) == first
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    assert made("b", elsewhere) == first
    toy_image(7, 7).save(elsewhere / "red" / "000.png")  # as many images, one of them another
    others = {made("c", elsewhere), made("d", folder, seed=1), made("e", folder, views=2)}
    (folder / "red" / "000.png").rename(folder / "green" / "zzz.png")
    assert len(others | {made("f", folder), first}) == 5


def test_stamp_sees_through_links(tmp_path: Path, image_folder: Make) -> None:
    one, two = image_folder("one", per_class=2), image_folder("two", per_class=3)
    linked = tmp_path / "linked"
    linked.mkdir()

    def of(target: Path) -> str:
        for title in CLASS_NAMES:
            (linked / title).unlink(missing_ok=True)
            (linked / title).symlink_to(target / title)
        return stamp(open_source(linked))

    assert of(one) != of(two)
    assert of(one) == of(one) == stamp(open_source(one))


def test_stamp_sees_files_written_anew(image_folder: Make) -> None:
    folder = image_folder(per_class=1)
    before = stamp(open_source(folder))
    path = folder / "red" / "000.png"
    facts = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert stamp(open_source(folder)) != before


def test_stamp_sees_labels(tmp_path: Path) -> None:
    source = open_source(table(tmp_path / "x.parquet", ["p", "q", "q"], [0, 1, 2]))
    assert stamp(source) == stamp(open_source(tmp_path / "x.parquet"))
    assert stamp(source) != stamp(replace(source, labels=None, class_names=()))
    assert stamp(source) != stamp(replace(source, labels=[0, 0, 1]))
    table(tmp_path / "x.parquet", ["p", "q", "q"], [0, 1, 3])
    assert stamp(source) != stamp(open_source(tmp_path / "x.parquet"))
