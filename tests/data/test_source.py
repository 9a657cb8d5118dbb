"""`--data` in all its forms, and what is said of the wrong ones."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from nextscale.data.decode import UnreadableImage
from nextscale.data.source import open_source
from toys import CLASS_NAMES, png, toy_image, write_tar

Make = Callable[..., Path]


def test_folder_of_classes(image_folder: Make) -> None:
    source = open_source(image_folder(per_class=3))
    assert source.class_names == CLASS_NAMES
    assert [source.label(index) for index in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    image, label = source.read(4)
    assert label == 1
    assert np.array_equal(np.asarray(image), np.asarray(toy_image(1, 1)))


def test_flat_folder_is_unconditional(image_folder: Make) -> None:
    source = open_source(image_folder(flat=True))
    assert source.class_names == ()
    assert len(source) == 24
    assert source.read(0)[1] is None


@pytest.mark.parametrize("form", ["classlabel", "integers", "names"])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_parquet(tmp_path: Path, form: str, whole_folder: bool) -> None:
    labels = [0, 1, 2, 2]
    rows = {"image": [{"bytes": png(label, i), "path": None} for i, label in enumerate(labels)]}
    kinds = {"classlabel": datasets.ClassLabel(names=list(CLASS_NAMES)), "integers": datasets.Value("int64")}
    rows["label"] = [CLASS_NAMES[label] for label in labels] if form == "names" else labels
    features = datasets.Features({"image": datasets.Image(), "label": kinds.get(form, datasets.Value("string"))})
    path = tmp_path / "data" / "train.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    source = open_source(path.parent if whole_folder else path)
    assert source.class_names == (("0", "1", "2") if form == "integers" else CLASS_NAMES)
    assert [source.label(index) for index in range(4)] == labels
    assert np.array_equal(np.asarray(source.read(2)[0]), np.asarray(toy_image(2, 2)))


@pytest.mark.parametrize("label_file", ["cls", "json"])
def test_webdataset(tmp_path: Path, label_file: str) -> None:
    files = {}
    for index, label in enumerate([0, 2, 1]):
        text = str(label) if label_file == "cls" else json.dumps({"label": label})
        files |= {f"{index:04d}.png": png(label, index), f"{index:04d}.{label_file}": text.encode()}
    write_tar(tmp_path / "shard-000.tar", files)
    source = open_source(tmp_path)
    assert [source.read(index)[1] for index in range(3)] == [0, 2, 1]
    assert np.array_equal(np.asarray(source.read(1)[0]), np.asarray(toy_image(2, 1)))


def test_wrong_places_are_explained(tmp_path: Path, image_folder: Make) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder is empty; expected an image folder"):
        open_source(tmp_path / "empty")
    with pytest.raises(ValueError, match="there is no such file or folder"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="not a data set"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="holds no images"):
        open_source(tmp_path / "texts")
    mixed = image_folder("mixed")
    toy_image(0, 0).save(mixed / "beside.png")
    with pytest.raises(ValueError, match="both beside and inside"):
        open_source(mixed)


def test_split_folder_is_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "train" / "x.parquet")
    with pytest.raises(ValueError, match="did you mean its subfolder train"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="no column 'image'; its columns are a"):
        open_source(tmp_path / "train")


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="x.parquet") as error:
        open_source(tmp_path / "x.parquet")
    assert "\n" not in str(error.value)


def test_hub_data_offline_is_one_line() -> None:
    with pytest.raises(ValueError, match="nobody/nothing"):
        open_source("nobody/nothing")


def test_unreadable_files_are_named(image_folder: Make) -> None:
    folder = image_folder(per_class=1)
    (folder / "red" / "000.png").write_bytes(b"broken")
    source = open_source(folder)
    with pytest.raises(UnreadableImage, match=r"red/000\.png"):
        source.read(2)


def test_grey_files_come_out_as_rgb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 4), 77).save(tmp_path / "a" / "x.png")
    assert open_source(tmp_path).read(0)[0].getpixel((0, 0)) == (77, 77, 77)
