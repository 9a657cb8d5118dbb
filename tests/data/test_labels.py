"""Labels are names, unless the data declares class indices; whatever surprises is said or refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.data.columns import classes_of, read_labels
from nextscale.data.source import describe, open_source
from nextscale.data.stream import open_stream
from toys import CLASS_NAMES, write_table

OPEN = [open_source, lambda file, **columns: open_stream(str(file), **columns)]
"""Tables by index and as a stream read labels alike."""


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["02119789", "02120079", "02119789"], ("02119789", "02120079"), [0, 1, 0]),
        (["10", "2", "10"], ("2", "10"), [1, 0, 1]),
        (["1", "01", "1"], ("01", "1"), [1, 0, 1]),
        (["n02", "10", "9"], ("10", "9", "n02"), [2, 0, 1]),
        (["-1", "0", "1"], ("-1", "0", "1"), [0, 1, 2]),
        ([3_000_000, 7, 7], ("7", "3000000"), [1, 0, 0]),
        ([1, 2, 3], ("1", "2", "3"), [0, 1, 2]),
        ([2, 0, 1], ("0", "1", "2"), [2, 0, 1]),
        ([1.0, 0.0, 2.0], ("0", "1", "2"), [1, 0, 2]),
        ([True, False, True], ("false", "true"), [1, 0, 1]),
        ([True, True], ("true",), [0, 0]),
        (["Cat", "cat ", "cat"], ("Cat", "cat", "cat "), [0, 2, 1]),
    ],
)
def test_what_labels_of_a_table_become(tmp_path: Path, labels: list, names: tuple[str, ...], ids: list[int]) -> None:
    file = write_table(tmp_path / "x.parquet", labels)
    source = open_source(file)
    assert source.class_names == names
    assert [source.label(index) for index in range(len(labels))] == ids
    stream = open_stream(str(file))
    assert stream.class_names == names
    assert [stream.classes.id(label, row=0, column="") for label in labels] == ids


@pytest.mark.parametrize("opened", OPEN)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, -1, 0], "row 2 has label -1, expected numbers from 0 (column 'label')"),
        ([0, None, 1], "row 1 has no label in column 'label'"),
        (["a", "b", " "], "row 2 has no label in column 'label'"),
        ([0.0, 1.0, math.nan], "row 2 has no label in column 'label'"),
        ([0.0, 0.5, 1.0], "row 1 has 0.5 for a label in column 'label'; expected one name or whole number"),
        ([[0], [1, 2]], "row 0 has a list for a label in column 'label'; expected one name or whole number"),
    ],
)
def test_labels_that_are_none_name_their_row(
    tmp_path: Path, opened: Callable[..., Any], labels: list, said: str
) -> None:
    file = write_table(tmp_path / "x.parquet", labels)
    with pytest.raises(ValueError, match="x.parquet") as error:
        opened(file)
    assert said in str(error.value)
    assert "--label-column none" in str(error.value)
    assert "\n" not in str(error.value)
    assert opened(file, label_column="none").class_names == ()


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_declared_class_out_of_range_names_its_row(tmp_path: Path, wrong: int) -> None:
    file = write_table(tmp_path / "x.parquet", [0, 2, wrong, 1])
    declared = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))})
    parquet.write_table(parquet.read_table(file).replace_schema_metadata(declared.arrow_schema.metadata), file)
    for opened in OPEN:
        with pytest.raises(ValueError, match=rf"row 2 has label {wrong}, expected 0 to 2 \(column 'label'\)"):
            opened(file)
        assert opened(file, label_column="none").class_names == ()


@pytest.mark.parametrize("opened", OPEN)
@pytest.mark.parametrize("name", ["fine_label", "labels", "coarse_label", "class_name", "species", "digit"])
def test_unknown_columns_are_asked_for(tmp_path: Path, opened: Callable[..., Any], name: str) -> None:
    file = write_table(tmp_path / "x.parquet", [0, 1, 1], name=name)
    with pytest.raises(ValueError, match=f"has no column 'label'; .* in {name}, say so with --label-column {name};"):
        opened(file)
    assert opened(file, label_column=name).class_names == ("0", "1")
    assert opened(file, label_column="none").class_names == ()
    with pytest.raises(ValueError, match=f"no column 'lable'; its columns are image, {name}"):
        opened(file, label_column="lable")


@pytest.mark.parametrize("opened", OPEN)
def test_columns_that_say_something_else_are_not_asked_for(tmp_path: Path, opened: Callable[..., Any]) -> None:
    for name in ("caption", "image_id", "file_name", "__key__", "width"):
        assert opened(write_table(tmp_path / f"{name}.parquet", [1, 2, 3], name=name)).class_names == ()


def test_gaps_and_look_alikes_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_source(write_table(tmp_path / "gaps.parquet", [7, 9, 7]))
    said = "the numbers in column 'label' are not 0, 1, 2 and so on: the 2 that occur become the classes (7, 9)"
    assert said in caplog.text
    open_source(write_table(tmp_path / "alike.parquet", ["Cat", "cat ", "dog", "caf\u00e9", "cafe\u0301"]))
    assert "kept apart: 'Cat' and 'cat '; 'cafe\u0301' and 'caf\u00e9'" in caplog.text
    caplog.clear()
    open_source(write_table(tmp_path / "plain.parquet", ["cat", "dog", "2"]))
    assert caplog.text == ""


def test_the_data_is_described_in_a_line(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    assert describe(open_source(image_folder(per_class=2))) == "6 images in 3 classes by subfolder: blue, green, red"
    assert describe(open_source(image_folder("flat", flat=True))) == "24 images without classes"
    many = write_table(tmp_path / "x.parquet", list(range(20)))
    assert describe(open_source(many)).endswith("20 classes by column 'label': 0, 1, 2, 3, 4, 5, 6, 7, ...")
    assert describe(open_stream(str(many))).startswith("a stream of images in 20 classes by column 'label'")


@settings(max_examples=50)
@given(st.lists(st.one_of(st.integers(0, 50), st.sampled_from(["7", "07", "cat", "Cat"])), min_size=1, max_size=20))
def test_every_label_finds_its_name(labels: list[int | str]) -> None:
    ids, classes = read_labels(labels, where="x", column="y")
    assert [classes.names[place] for place in ids] == [str(label) for label in labels]
    assert sorted(set(ids)) == list(range(len(classes.names))), "no class is empty"


def test_indices_stay_indices() -> None:
    assert classes_of(["4", "0"], column="", indices=True).names == ("0", "1", "2", "3", "4")
    assert classes_of(["4", "0"], column="").names == ("0", "4")
    assert classes_of(["02119789", "7"], column="", indices=True).names == ("7", "02119789")
    ids, _ = read_labels(["4", " 0"], where="", column="", indices=True)
    assert ids.dtype == np.int64 and ids.tolist() == [4, 0]
    with pytest.raises(ValueError, match=r"000\.jpg has label -1"):
        read_labels(["-1"], where="x", column="y", indices=True, rows=["000.jpg"])
