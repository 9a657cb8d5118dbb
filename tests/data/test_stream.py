"""Streams: every image once an epoch whatever the processes, exact continuation, bad files and labels."""

import io
import json
import tarfile
from itertools import islice
from pathlib import Path

import pytest

from nextscale.data import stream as stream_module
from nextscale.data.loader import ImageBatch
from nextscale.data.stream import Position, StreamLoader, open_stream
from toys import png, write_parquet


def loader(folder: Path, **changes: object) -> StreamLoader:
    settings: dict = {"size": (16, 16), "batch_size": 4, "seed": 1, "enlarge": 1.0}
    return StreamLoader(stream=open_stream(str(folder)), **settings | changes)


def contents(batches: list[ImageBatch]) -> list[bytes]:
    return [image.numpy().tobytes() for batch in batches for image in batch.images]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BLOCK", 5)


@pytest.mark.parametrize("files", [1, 3, 4])
def test_processes_share_an_epoch(tmp_path: Path, files: int) -> None:
    folder = write_parquet(tmp_path, files, rows=24 // files)
    halves = [list(islice(loader(folder, rank=r, world=2, batch_size=4).batches(), 12)) for r in (0, 1)]
    first, second = ([contents(half[part]) for half in halves] for part in (slice(0, 6), slice(6, 12)))
    for epoch in (first, second):
        assert len({image for half in epoch for image in half}) == 24, "each image once"
    assert first[0] != second[0], "another order each epoch"
    labels = {
        image.numpy().tobytes(): int(label) for b in halves[0] for image, label in zip(b.images, b.labels, strict=True)
    }
    for batch in islice(loader(folder).batches(), 6):
        for image, label in zip(batch.images, batch.labels, strict=True):
            assert labels.get(image.numpy().tobytes(), int(label)) == int(label)


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("world", [1, 2])
def test_a_stream_continues_exactly(tmp_path: Path, files: int, world: int) -> None:
    folder = write_parquet(tmp_path, files, rows=24 // files)
    one = loader(folder, world=world, rank=world - 1)
    whole = list(islice(one.batches(), 14))
    for done in range(1, 13):
        position: Position = json.loads(json.dumps(whole[done - 1].position))
        again = list(islice(one.batches(position), 2))
        assert contents(again) == contents(whole[done : done + 2]), f"behind batch {done}"
        assert [b.indices.tolist() for b in again] == [b.indices.tolist() for b in whole[done : done + 2]]
        assert [b.epochs.tolist() for b in again] == [b.epochs.tolist() for b in whole[done : done + 2]]


def test_unreadable_images_are_left_out_up_to_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_parquet(tmp_path, broken=(3, 7))
    epoch = contents(list(islice(loader(folder, batch_size=2).batches(), 11)))
    assert len(set(epoch)) == 22
    assert "3.png" in caplog.text and "7.png" in caplog.text
    with pytest.raises(ValueError, match="more than 1 images of the stream cannot be read"):
        list(islice(loader(folder, limit=1).batches(), 10))
    with pytest.raises(ValueError, match="no readable image"):
        list(islice(loader(write_parquet(tmp_path / "bad", 1, 3, broken=(0, 1, 2))).batches(), 1))


def test_webdataset_with_numbers_for_labels(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        for index in range(6):
            for suffix, data in (("png", png(index % 3, index)), ("cls", str(index % 3).encode())):
                entry = tarfile.TarInfo(f"{index:04d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(ValueError, match="--stream-classes"):
        open_stream(str(tmp_path))
    opened = open_stream(str(tmp_path), classes=3)
    assert opened.class_names == ("0", "1", "2")
    batches = list(islice(StreamLoader(stream=opened, size=(16, 16), batch_size=3).batches(), 2))
    assert sorted(label for batch in batches for label in batch.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    few = StreamLoader(stream=open_stream(str(tmp_path), classes=2), size=(16, 16), batch_size=6)
    with pytest.raises(ValueError, match="has label 2, expected 0 to 1"):
        list(islice(few.batches(), 1))


def test_other_data_is_refused(tmp_path: Path, image_folder) -> None:
    with pytest.raises(ValueError, match="cannot be streamed; a stream is a folder or file of parquet"):
        open_stream(str(image_folder()))
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="cannot be loaded"):
        open_stream(str(tmp_path / "x.parquet"))
    with pytest.raises(ValueError, match="cannot be opened as a stream"):
        open_stream("nobody/nothing")
