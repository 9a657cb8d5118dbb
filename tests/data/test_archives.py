"""WebDataset archives of every make, read by index and as a stream alike."""

import io
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from nextscale.data import stream as stream_module
from nextscale.data.source import describe, open_source
from nextscale.data.stream import StreamLoader, open_stream
from toys import png, toy_image, write_tar

COUNT = 6


def jpeg(label: int, index: int) -> bytes:
    buffer = io.BytesIO()
    toy_image(label, index).save(buffer, format="JPEG")
    return buffer.getvalue()


def members(pattern: str, label: str = "cls") -> dict[str, bytes]:
    """Files of samples; `pattern` names the image of a number."""
    files = {}
    for i in range(COUNT):
        name = pattern.format(i=i)
        key = name[: -len(name.split(".")[-1])]
        files[name] = png(i % 3, i) if name.lower().endswith("png") else jpeg(i % 3, i)
        if label:
            files[key + label] = b"%d\n" % (i % 3) if label == "cls" else json.dumps({"label": i % 3, "n": i}).encode()
    return files


KINDS = {
    "plain": members("{i:03d}.png"),
    "upper case": members("{i:03d}.JPEG"),
    "another suffix": members("{i:03d}.jfif"),
    "dots": members("v1.{i:03d}.png"),
    "folders": members("./shard/{i:03d}.png"),
    "json": members("{i:03d}.png", "json"),
    "json upper case": {name.replace("json", "JSON"): data for name, data in members("{i:03d}.png", "json").items()},
    "mixed": {**members("{i:03d}.png"), **members("j{i:03d}.jpg")},
    "segments": {
        more: data
        for name, data in members("{i:03d}.png").items()
        for more in ([name, name.replace(".png", ".seg.png")] if "png" in name else [name])
    },
    "macintosh": {
        more: data if more == name else b"\0\5\x16\7"
        for name, data in members("a/{i:03d}.png").items()
        for more in (f"a/._{name[2:]}", f"__MACOSX/{name}", name)
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_every_make(tmp_path: Path, kind: str) -> None:
    file = write_tar(tmp_path / "x.tar", KINDS[kind])
    source = open_source(file)
    assert source.class_names == ("0", "1", "2")
    assert len(source) == (2 * COUNT if kind == "mixed" else COUNT)
    assert [source.label(index) for index in range(len(source))] == [0, 1, 2] * (len(source) // 3)
    if kind in ("plain", "dots", "segments", "macintosh"):
        assert np.array_equal(np.asarray(source.read(4)[0]), np.asarray(toy_image(1, 4)))
    stream = open_stream(str(file), classes=3)
    batch = next(StreamLoader(stream=stream, size=(16, 16), batch_size=len(source), enlarge=1.0).batches())
    assert sorted(batch.labels.tolist()) == sorted([0, 1, 2] * (len(source) // 3))
    images = {np.asarray(source.read(index)[0]).tobytes(): source.label(index) for index in range(len(source))}
    for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
        assert images[np.ascontiguousarray(image.permute(1, 2, 0).numpy()).tobytes()] == label


def test_what_an_archive_passes_over_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_tar(tmp_path / "x.tar", {"readme.txt": b"hello", **KINDS["macintosh"]})
    open_source(file)
    (line,) = caplog.messages
    assert "hidden: 12 (a/._000.png, ...); left by other programs: 12 (__MACOSX/a/000.png, ...)" in line
    assert "samples without an image: 1 (readme)" in line
    caplog.clear()
    open_stream(str(file), classes=3)
    assert "in its first files: passed over hidden: 12" in caplog.text


def test_folders_of_an_archive_are_classes(tmp_path: Path) -> None:
    files = {f"set/cat{i % 2}/{i}.png": png(i % 2, i) for i in range(4)}
    source = open_source(write_tar(tmp_path / "x.tar", files))
    assert describe(source) == "4 images in 2 classes by folders of the archive: cat0, cat1"
    assert [source.label(index) for index in range(4)] == [0, 1, 0, 1]
    assert open_source(tmp_path / "x.tar", label_column="none").class_names == ()
    with pytest.raises(ValueError, match="leave out --stream, or add --label-column none"):
        open_stream(str(tmp_path / "x.tar"))
    assert open_stream(str(tmp_path / "x.tar"), label_column="none").class_names == ()
    same = write_tar(tmp_path / "same.tar", {f"shard/{i}.png": png(0, i) for i in range(3)})
    assert open_source(same).class_names == ()
    assert open_source(same, label_column="folder").class_names == ("shard",)


def test_doubtful_folders_of_archives_are_asked_for(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / "many" / f"{shard}.tar", {f"part{shard}/{i}.png": png(0, i) for i in range(2)})
    with pytest.raises(ValueError, match="each archive has a folder of its own; .*--label-column folder"):
        open_source(tmp_path / "many")
    assert open_source(tmp_path / "many", label_column="folder").class_names == ("part0", "part1")
    parts = write_tar(
        tmp_path / "x.tar", {f"{part}/a/{i}.png": png(0, i) for part in ("train", "test") for i in (1, 2)}
    )
    with pytest.raises(ValueError, match=r"parts of a data set \(train, test\), not classes; make an archive of each"):
        open_source(parts)


def test_labels_of_archives_are_found_or_asked_for(tmp_path: Path) -> None:
    described = {"class_name": "cat", "caption": "a cat"}
    files = {}
    for i in range(3):
        files |= {f"{i}.png": png(0, i), f"{i}.json": json.dumps(described | {"class_name": f"c{i % 2}"}).encode()}
    file = write_tar(tmp_path / "x.tar", files)
    for opened in (open_source, open_stream):
        with pytest.raises(
            ValueError, match="no file or key 'label'; .*--label-column class_name; --label-column none"
        ):
            opened(str(file))
        with pytest.raises(ValueError, match=r"no 'clas'; they hold png, json \(keys class_name, caption\)"):
            opened(str(file), label_column="clas")
    assert open_source(file, label_column="class_name").class_names == ("c0", "c1")
    stream = open_stream(str(file), label_column="class_name", classes=2)
    with pytest.raises(ValueError, match=r"\d\.png has label c\d, expected 0 to 1 \(key 'class_name' of .json files\)"):
        list(islice(StreamLoader(stream=stream, size=(8, 8), batch_size=3).batches(), 1))


def test_digits_in_cls_files_are_indices_and_texts_are_names(tmp_path: Path) -> None:
    def classes(*labels: str) -> tuple[str, ...]:
        files = {}
        for i, label in enumerate(labels):
            files |= {f"{i}.png": png(0, i), f"{i}.cls": label.encode()}
        return open_source(write_tar(tmp_path / "x.tar", files)).class_names

    assert classes("3", "0") == ("0", "1", "2", "3")
    assert classes("dog", "cat\n", "dog") == ("cat", "dog")
    assert classes("02119789", "02120079") == ("02119789", "02120079")
    with pytest.raises(ValueError, match=r"1\.png has label -1, expected numbers from 0 \(\.cls files\)"):
        classes("0", "-1")
    with pytest.raises(ValueError, match=r"1\.png has no label in \.cls files"):
        classes("0", "")


def test_several_images_of_a_sample_are_asked_for(tmp_path: Path) -> None:
    files = {f"{i}.{suffix}": png(i, i) for i in range(3) for suffix in ("jpg", "png")}
    file = write_tar(tmp_path / "x.tar", files)
    with pytest.raises(ValueError, match=r"several images \(jpg, png\); name one with --image-column jpg"):
        open_source(file)
    assert open_source(file, image_column="png").name(2) == "2.png"
    with pytest.raises(ValueError, match="holds no images of suffix webp"):
        open_source(file, image_column="webp")


def test_damaged_archives_are_one_line(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", KINDS["plain"])
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:-12_000])
    (tmp_path / "text.tar").write_text("hello")
    (tmp_path / "empty.tar").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(ValueError, match=f"{name}.tar") as error:
            open_source(tmp_path / f"{name}.tar")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("files", "world", "block"), [(1, 1, 2048), (1, 2, 3), (4, 2, 5)])
def test_a_stream_of_archives_continues_exactly(
    tmp_path: Path, files: int, world: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "BLOCK", block)
    for number in range(files):
        samples = {f"{i}.png": png(i % 3, 10 * number + i) for i in range(8)}
        write_tar(tmp_path / f"{number}.tar", samples)
    stream = open_stream(str(tmp_path))
    loaders = [
        StreamLoader(stream=stream, size=(16, 16), batch_size=2 * world, enlarge=1.0, rank=rank, world=world)
        for rank in range(world)
    ]
    steps = 8 * files // (2 * world)
    through = [list(islice(loader.batches(), steps + 2)) for loader in loaders]
    seen = {image.numpy().tobytes() for batches in through for batch in batches[:steps] for image in batch.images}
    assert len(seen) == 8 * files, "each image once an epoch"
    for loader, batches in zip(loaders, through, strict=True):
        for done in range(1, steps + 1):
            position = json.loads(json.dumps(batches[done - 1].position))
            again = next(loader.batches(position))
            assert np.array_equal(again.images.numpy(), batches[done].images.numpy())
