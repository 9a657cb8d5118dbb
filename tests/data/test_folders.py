"""Which files of a folder are images of a class, and what is said of the others."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nextscale.cli import main
from nextscale.data.folders import images_below, split_of
from nextscale.data.source import open_source
from nextscale.data.stream import open_stream
from toys import CLASS_NAMES, toy_image, write_table, write_tar

Make = Callable[..., Path]


def read_all(folder: Path) -> list[int | None]:
    source = open_source(folder)
    return [source.read(index)[1] for index in range(len(source))]


@pytest.mark.parametrize(
    "unwanted",
    [
        ".ipynb_checkpoints/000.png",
        "red/.ipynb_checkpoints/000.png",
        "red/.partial-1/000.png",
        "red/._000.png",
        "__MACOSX/red/._000.png",
        "__MACOSX/red/000.png",
        "red/@eaDir/000.png",
        "red/deep/.trash/000.png",
    ],
)
def test_what_other_programs_leave_is_no_image(
    image_folder: Make, unwanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = image_folder(per_class=2)
    (folder / unwanted).parent.mkdir(parents=True, exist_ok=True)
    toy_image(0, 0).save(folder / unwanted)
    source = open_source(folder)
    assert source.class_names == CLASS_NAMES
    assert len(source) == 6
    assert not any(unwanted in str(path) for path in source.rows)
    (line,) = caplog.messages
    assert "passed over" in line and ": 1 (" in line and unwanted.split("/")[0] in line


def test_what_is_passed_over_is_one_line(image_folder: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = image_folder(per_class=2)
    for number in range(12):
        (folder / "red" / f"._{number}.png").write_bytes(b"junk")
    (folder / "blue" / "notes.txt").write_text("hello")
    (folder / "blue" / "gone.png").symlink_to("/nowhere/gone.png")
    (folder / "blue" / "itself.png").symlink_to(folder / "blue" / "itself.png")
    (folder / "vectors").mkdir()
    (folder / "vectors" / "a.svg").write_text("<svg/>")
    assert len(open_source(folder)) == 6
    (line,) = caplog.messages
    assert line == (
        f"data {folder}: passed over broken links: 2 (blue/gone.png, ...); other files: 2 (blue/notes.txt, ...); "
        "hidden: 12 (red/._0.png, ...); folders without images: 1 (vectors)"
    )


@pytest.mark.parametrize(("suffix", "form"), [(".jfif", "JPEG"), (".avif", "AVIF"), (".JPE", "JPEG"), (".TIF", "TIFF")])
def test_a_class_of_another_suffix_does_not_vanish(image_folder: Make, suffix: str, form: str) -> None:
    folder = image_folder(per_class=1)
    (folder / "amber").mkdir()
    toy_image(0, 0).save(folder / "amber" / f"000{suffix}", format=form)
    assert open_source(folder).class_names == ("amber", *CLASS_NAMES)
    assert read_all(folder) == [0, 1, 2, 3]


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a/0.svg", "a/1.svg", ".cache/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    with pytest.raises(
        ValueError, match=r"no images \(passed over hidden: 1 \(.cache\); other files: 2 \(a/0.svg, ...\)\)"
    ):
        open_source(tmp_path)


def test_links_are_followed_at_any_depth(image_folder: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, linked = image_folder("store", per_class=3), tmp_path / "linked"
    for name in CLASS_NAMES:
        (linked / name).mkdir(parents=True)
        (linked / name / "part-1").symlink_to(store / name, target_is_directory=True)
        (linked / name / "own.png").symlink_to(store / name / "000.png")
    assert open_source(linked).class_names == CLASS_NAMES
    assert read_all(linked) == [0] * 4 + [1] * 4 + [2] * 4
    assert caplog.messages == []
    (linked / "red" / "again").symlink_to(linked, target_is_directory=True)
    assert len(open_source(linked)) == 12
    assert "links to a folder they lie in: 1 (red/again)" in caplog.text


@pytest.mark.parametrize("names", [("train", "val"), ("train", "test", "extra"), ("train",), ("Training", "Testing")])
@pytest.mark.parametrize("column", ["", "none"])
def test_parts_of_a_set_are_no_classes(image_folder: Make, tmp_path: Path, names: tuple[str, ...], column: str) -> None:
    whole = tmp_path / "whole"
    for name in names:
        shutil.copytree(image_folder(per_class=1), whole / name)
    with pytest.raises(ValueError, match=rf"parts of a data set .*name one, as in --data {whole / names[0]}$"):
        open_source(whole, label_column=column)
    assert open_source(whole / names[0]).class_names == CLASS_NAMES


def test_trains_are_a_class(image_folder: Make) -> None:
    folder = image_folder(per_class=1)
    (folder / "red").rename(folder / "train")
    assert open_source(folder).class_names == ("blue", "green", "train")


def test_pictures_that_generate_writes_are_taken_without_their_overview(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "made"
    assert main(["generate", "--model", str(model_folder), "--count", "3", "--out", str(out)]) == 0
    source = open_source(out)
    assert [path.name for path in source.rows] == ["000000.png", "000001.png", "000002.png"]
    assert "overviews of generated images: 1 (grid.png)" in caplog.text
    assert images_below(out) == source.rows
    (out / "manifest.jsonl").unlink()
    assert len(open_source(out)) == 4, "a grid.png of somebody else is an image"


def test_hub_layout_takes_the_split_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "set" / "data"
    for name, count in (("train-00000-of-00002", 2), ("train-00001-of-00002", 2), ("test-00000-of-00001", 3)):
        write_table(data / f"{name}.parquet", [0] * count)
    write_table(data / "._train-00000-of-00002.parquet", [0])
    (tmp_path / "set" / "README.md").write_text("a set")
    for place in (data, tmp_path / "set"):
        caplog.clear()
        assert len(open_source(place)) == 4
        assert "files of other splits: 1 (test-00000-of-00001.parquet); hidden: 1 (._train" in caplog.text
        assert [Path(file).name[:11] for file in open_stream(str(place)).files] == ["train-00000", "train-00001"]
        assert len(open_source(place, split="test")) == 3
    assert len(open_source(f"{data}/test-*.parquet")) == 3
    assert len(open_source(data / "test-00000-of-00001.parquet")) == 3
    with pytest.raises(ValueError, match=r"files of test, train and none of validation; name them, as in --data"):
        open_source(data, split="validation")
    for file in data.glob("train*"):
        file.unlink()
    assert len(open_source(data)) == 3, "the only split there is"


def test_splits_are_words_of_a_name() -> None:
    assert split_of(Path("imagenet-val-0003.tar")) == "val"
    assert split_of(Path("validation.parquet")) == "validation"
    assert split_of(Path("contest.parquet")) == split_of(Path("trained-0.tar")) == ""


@pytest.mark.parametrize("name", ["set [1]", "{a,b}", "what?", "a*b", "50% ~ #1", "caf\u00e9"])
def test_any_name_of_a_folder_is_taken_literally(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    write_table(folder / "rows" / "x[0].parquet", ["a", "b"])
    write_tar(folder / "tars" / "x[0].tar", {"0.png": (write_image(folder / "p" / "a" / "0.png")).read_bytes()})
    for place in (folder / "rows", folder / "rows" / "x[0].parquet"):
        assert len(open_source(place)) == 2
        assert len(list(open_stream(str(place)).rows(seed=0, epoch=0, rank=0, world=1))) == 2
    assert open_source(folder / "tars").read(0)[0].size == (16, 16)
    assert open_source(folder / "p").class_names == ("a",)


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    toy_image(0, 0).save(path)
    return path


def test_paths_in_a_table_start_at_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "set" / "a" / "0.png")
    Image.new("RGB", (3, 5)).save(tmp_path / "b.png")
    file = write_table(tmp_path / "set" / "x.parquet", ["a", "b"], images=["a/0.png", str(tmp_path / "b.png")])
    monkeypatch.chdir(tmp_path)
    for place in (file, Path(os.path.relpath(file))):
        source = open_source(place)
        assert [source.read(index)[0].size for index in range(2)] == [(16, 16), (3, 5)]
    (tmp_path / "set" / "a" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"set/a/0\.png: there is no such file"):
        open_source(file).read(0)


@pytest.mark.parametrize("stream", [False, True])
def test_arrays_are_refused_in_a_line(tmp_path: Path, stream: bool) -> None:
    file = write_table(tmp_path / "x.parquet", [0, 1], images=[[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    with pytest.raises(ValueError, match=r"column 'image' holds lists, expected files of images .* datasets.Image\(\)"):
        open_stream(str(file)) if stream else open_source(file)


def test_columns_of_images_are_found_or_asked_for(tmp_path: Path) -> None:
    file = write_table(tmp_path / "x.parquet", ["a", "b"])
    import pyarrow.parquet as parquet

    for name in ("IMG", "Jpeg"):
        parquet.write_table(parquet.read_table(file).rename_columns([name, "label"]), tmp_path / "other.parquet")
        assert len(open_source(tmp_path / "other.parquet")) == 2
    parquet.write_table(parquet.read_table(file).rename_columns(["photo", "label"]), tmp_path / "photo.parquet")
    with pytest.raises(ValueError, match="has no column 'image'; its columns are photo, label; .*--image-column NAME"):
        open_source(tmp_path / "photo.parquet")
    assert open_source(tmp_path / "photo.parquet", image_column="photo").read(1)[1] == 1
