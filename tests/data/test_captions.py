"""Captions from every place that the ecosystem keeps them in, by index, as a stream, in token caches and in batches."""

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextscale.data.captions import captions_of_rows, drawn_captions, plain_text
from nextscale.data.identity import data_identity
from nextscale.data.loader import ImageLoader
from nextscale.data.source import ImageSource, describe, open_source
from nextscale.data.stream import StreamLoader, open_stream
from nextscale.data.tokens import TokenCacheConfig, cached_batches, open_tokens
from nextscale.training import table
from nextscale.training.images import set_aside
from nextscale.training.tokens import encoded_batches, write_tokens
from toys import make_tokenizer, png, write_tar

ODD = [
    'a "red" heart, 3d',
    "קלב אדום",
    "caf\u00e9 \U0001f469\u200d\U0001f373",
    "two\tblanks \x00 and\r\na line",
    "it's",
]
PLAIN = ['a "red" heart, 3d', "קלב אדום", "caf\u00e9 \U0001f469\u200d\U0001f373", "two blanks and a line", "it's"]


def captions(source: ImageSource) -> list[tuple[str, ...]]:
    return [source.captions_of(index) for index in range(len(source))]


def write_images(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number % 3, number))
    return folder


def write_rows(path: Path, **columns: list[Any]) -> Path:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    count = len(next(iter(columns.values())))
    images = [{"bytes": png(number % 3, number), "path": f"{number}.png"} for number in range(count)]
    parquet.write_table(arrow.table({"image": images} | columns), path)
    return path


def streamed(file: Path, **columns: Any) -> dict[int, tuple[str, ...]]:
    """Captions of the images of a stream's first epoch by their number, which is in the pixels."""
    loader = StreamLoader(stream=open_stream(str(file), **columns), size=(16, 16), batch_size=1, enlarge=1.0)
    found = {}
    for batch in islice(loader.batches(), 5):
        (number,) = [n for n in range(5) if np.array_equal(batch.images[0].permute(1, 2, 0), pixels_of(n))]
        assert batch.captions is not None
        found[number] = batch.captions[0]
    return found


def pixels_of(number: int) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png(number % 3, number))))


def test_columns_of_tables(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.parquet", caption=ODD, label=[0, 1, 2, 0, 1], width=[9] * 5)
    assert open_source(file).captions is None, "captions are read where they are asked for"
    source = open_source(file, caption_column="")
    assert captions(source) == [(text,) for text in PLAIN]
    assert describe(source) == "5 images in 3 classes by column 'label': 0, 1, 2; captions from column 'caption'"
    assert streamed(file, caption_column="") == {number: (text,) for number, text in enumerate(PLAIN)}
    assert open_source(file, caption_column="none").captions is None
    assert data_identity(source) != data_identity(open_source(file)) == data_identity(open_source(file))


def test_lists_and_several_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [["a", "b", "a"], [], None, ["", None, " c"], ["d"]]
    file = write_rows(tmp_path / "x.parquet", texts=names, title=["A", "", None, " ", "d"], n=[1, 2, 3, 4, 5])
    source = open_source(file, label_column="none", caption_column="texts, title")
    wanted = [("a", "b", "A"), (), (), ("c",), ("d",)]
    assert captions(source) == wanted
    assert caplog.messages == [f"data {file}: 2 of 5 images have no caption (1.png, 2.png)"]
    assert streamed(file, label_column="none", caption_column="texts,title") == dict(enumerate(wanted))
    assert "has no caption (1 so far)" in caplog.messages[1]
    assert "has no caption (2 so far)" in caplog.messages[2]
    with pytest.raises(ValueError, match=r"no column 'txet'; its columns are image, texts, title, n \(--caption-col"):
        open_source(file, label_column="none", caption_column="txet")
    with pytest.raises(ValueError, match="column 'n' holds int64, expected text or lists of it"):
        open_stream(str(file), label_column="none", caption_column="n")


def test_doubt_is_said_and_nothing_is_guessed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_rows(tmp_path / "x.parquet", text=["a", "b"], Caption=["c", "d"])
    assert open_source(file, caption_column="").captions is None
    (line,) = caplog.messages
    assert line.endswith("captions may be in text or Caption; none are taken: say which with --caption-column text")
    assert captions(open_source(file, caption_column="Caption")) == [("c",), ("d",)]
    empty = write_rows(tmp_path / "y.parquet", text=["", "\n"])
    assert open_source(empty, caption_column="").captions is None
    with pytest.raises(ValueError, match=r"no image has a caption in column 'text'$"):
        open_source(empty, caption_column="text")


def test_metadata_beside_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_images(tmp_path / "x", ["a/0.png", "a/caf\u00e9.png", "b/2.png", "b/in/3.png", "b/4.png"])
    rows = [{"file_name": "0.png", "text": ODD[0]}, {"file_name": "./cafe\u0301.png", "text": [ODD[1], ODD[2]]}]
    lines = "\n\n".join(json.dumps(row) for row in rows)
    (folder / "a" / "metadata.jsonl").write_text(f"\ufeff{lines}\r\n", encoding="utf-8")
    with (folder / "b" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = [("", "file_name", "text"), (0, "in/3.png", ODD[3]), (1, "in/3.png", "more"), (2, "2.png", "")]
        csv.writer(file).writerows([*table, (3, "gone.png", "x")])
    source = open_source(folder, caption_column="")
    assert [Path(source.name(index)).name for index in range(3)] == ["0.png", "caf\u00e9.png", "2.png"]
    assert captions(source) == [(PLAIN[0],), (PLAIN[1], PLAIN[2]), (), (), (PLAIN[3], "more")]
    assert source.class_names == ("a", "b")
    assert describe(source).endswith("; captions from column 'text' of metadata.csv, metadata.jsonl")
    absent, missing = caplog.messages
    assert absent == f"data {folder}: metadata names 1 files that are no images here (b/gone.png)"
    assert missing == f"data {folder}: 2 of 5 images have no caption ({folder}/b/2.png, {folder}/b/4.png)"
    caplog.clear()
    assert open_source(folder).captions is None
    assert caplog.messages == [f"data {folder}: passed over other files: 2 (a/metadata.jsonl, ...)"]


BAD = {
    "{": "metadata.jsonl, line 1 is not JSON",
    "[1]": "line 1 is no object with 'file_name' and texts",
    '{"file_name": "0.png", "text": 5}': "line 1: 'text' is 5, expected text or a list of texts",
    '{"file_name": "0.png", "text": "a"}\n{"text": "b"}': "line 2 has no 'file_name'",
    '{"file_name": "0.png", "prompt": "a"}': "has no column 'text'; its columns are prompt",
    '{"text": "a"}': "has no 'file_name'; its columns are text",
    b"\xff\xfea": "metadata.jsonl is not text in UTF-8",
}


@pytest.mark.parametrize("content", BAD)
def test_bad_metadata_is_one_line(tmp_path: Path, content: str | bytes) -> None:
    folder = write_images(tmp_path, ["0.png"])
    (folder / "metadata.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=BAD[content]) as error:
        open_source(folder, caption_column="text")
    assert "\n" not in str(error.value)


def test_bad_csv_is_one_line(tmp_path: Path) -> None:
    folder = write_images(tmp_path, ["0.png"])
    for content, message in {
        "file_name,text\n0.png,a,b\n": "line 2 has more cells than the header; texts with commas need quotes",
        'file_name,text\n0.png,"a"b\n': "is not CSV behind line 1",
        "image;text\n": "has no 'file_name'",
    }.items():
        (folder / "metadata.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            open_source(folder, caption_column="text")
    assert open_source(folder, caption_column="").captions is None, "a table about something else"


def test_texts_beside_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_images(tmp_path / "x", ["0.png", "v1.1.jpg", "2.png"])
    (folder / "notes.txt").write_text("no caption")
    for name, text in {"0.txt": ODD[0], "v1.1.TXT": "\ufeffone\n\n two\r\none\n"}.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert open_source(folder, caption_column="").captions is None
    some, passed = caplog.messages
    assert some.endswith("2 of 3 images have a .txt file beside them; --caption-column txt takes those as captions")
    assert passed.endswith("passed over other files: 3 (0.txt, ...)")
    (folder / "2.txt").write_bytes(ODD[1].encode())
    source = open_source(folder, caption_column="")
    assert captions(source) == [(PLAIN[0],), (PLAIN[1],), ("one", "two")]
    assert describe(source) == "3 images without classes; captions from .txt files"
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "m"}')
    caplog.clear()
    assert open_source(folder, caption_column="").captions is None
    assert "captions may be in text or txt; none are taken" in caplog.messages[0]
    assert captions(open_source(folder, caption_column="text,txt"))[0] == ("m", PLAIN[0])
    (folder / "2.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(ValueError, match=r"2\.txt is not text in UTF-8"):
        open_source(folder, caption_column="txt")
    with pytest.raises(ValueError, match=r"has no column 'txet'; its columns are text"):
        open_source(folder, caption_column="txet")


@pytest.mark.parametrize("pattern", ["{}", "shard/{}", "v1.{}"])
def test_archives(tmp_path: Path, pattern: str) -> None:
    files = {}
    for number, text in enumerate(ODD):
        key = pattern.format(number)
        described = {"caption": [text, f"n{number}"], "label": 0}
        texts = {".txt": text.replace("\r\n", " ").encode(), ".json": json.dumps(described).encode()}
        files |= {key + suffix: data for suffix, data in {".png": png(number % 3, number), **texts}.items()}
    file = write_tar(tmp_path / "x.tar", files)
    source = open_source(file, caption_column="")
    assert captions(source) == [(text,) for text in PLAIN]
    assert describe(source).endswith("; captions from .txt files")
    pairs = [(text, f"n{number}") for number, text in enumerate(PLAIN)]
    assert captions(open_source(file, caption_column="caption")) == pairs
    both = open_source(file, caption_column="caption,txt")
    assert captions(both) == pairs, "a text that is there twice counts once"
    assert describe(both).endswith("; captions from .txt files and keys caption of .json files")
    assert open_source(file).captions is None
    for opened in (open_source, open_stream):
        with pytest.raises(
            ValueError, match=r"no captions in 'txet'; they hold png, txt, json \(keys caption, label\)"
        ):
            opened(str(file), caption_column="txet")
    del files[pattern.format(1) + ".txt"]
    some = write_tar(tmp_path / "y.tar", files)
    assert open_source(some, caption_column="").captions is None
    wanted = [(text,) if number != 1 else () for number, text in enumerate(PLAIN)]
    assert captions(open_source(some, caption_column="txt")) == wanted
    assert streamed(some, caption_column="txt", label_column="none") == dict(enumerate(wanted))


def test_class_names_by_a_template(tmp_path: Path) -> None:
    folder = write_images(tmp_path, ["red_heart/0.png", "sun/1.png"])
    (tmp_path / "sun" / "1.txt").write_text("another")
    source = open_source(folder, caption_template="a {name}, drawn")
    assert captions(source) == [("a red heart, drawn",), ("a sun, drawn",)]
    assert describe(source).endswith("; captions from class names by the template 'a {name}, drawn'")
    for options, message in [
        ({"caption_template": "a name"}, r"'a name' has no \{name\}; write it as in 'a \{name\}'"),
        ({"caption_template": "{name}", "caption_column": "txt"}, "asked for in txt and by a template; leave out one"),
        ({"caption_template": "{name}", "label_column": "none"}, "has no classes whose names could be captions"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_source(folder, **options)
    file = write_rows(tmp_path / "x.parquet", label=["a_b", "c"] * 2 + ["c"])
    found = streamed(file, caption_template="the {name}")
    assert found == {0: ("the a b",), 1: ("the c",), 2: ("the a b",), 3: ("the c",), 4: ("the c",)}


def test_texts_are_on_one_line_and_can_be_stored() -> None:
    assert plain_text("\x00\u00a0 a\u2028b\x7f\u3000") == "a b"
    assert plain_text("\ud800x") == "?x"
    assert captions_of_rows([[], ["a", "b"]], "")[1] == ("a", "b")
    assert len(captions_of_rows([], "")) == 0


def test_each_epoch_draws_one_caption() -> None:
    own = [(), ("a",), ("a", "b", "c")]
    assert drawn_captions(own, [0.9, 0.9, 0.0]) == ["", "a", "a"]
    assert drawn_captions(own, [0.0, 0.0, 1 - 2**-53]) == ["", "a", "c"]


@pytest.fixture
def captioned(tmp_path: Path) -> ImageSource:
    """Images with 0 to 4 captions."""
    texts = [[f"{number}.{place}" for place in range(number % 5)] for number in range(12)]
    file = write_rows(tmp_path / "x.parquet", caption=texts, label=[number % 3 for number in range(12)])
    return open_source(file, caption_column="")


def test_batches_of_images_and_of_tokens_carry_the_same(tmp_path: Path, captioned: ImageSource) -> None:
    tokenizer = make_tokenizer()
    about = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=32)
    folder = write_tokens(tokenizer, captioned, tmp_path / "tokens", about, shard_images=5)
    cache = open_tokens(folder)
    assert [cache.captions_of(index) for index in range(12)] == captions(captioned)
    assert describe(cache) == "12 images in 3 classes: 0, 1, 2; captions from the token cache"
    assert cache.rows.column_names == ["tokens", "label", "index"]
    images = ImageLoader(source=captioned, size=(16, 16), batch_size=4, seed=3, enlarge=1.0)
    live = encoded_batches(tokenizer, images.batches(), seed=3, device=torch.device("cpu"))
    drawn = [batch.captions for batch in islice(cached_batches(cache, batch_size=4, seed=3), 12)]
    assert [batch.captions for batch in islice(live, 12)] == drawn
    later = [batch.captions for batch in islice(cached_batches(cache, batch_size=4, seed=3, start=5), 7)]
    assert later == drawn[5:], "a run continues with the same texts"
    assert len({text for batch in drawn if batch for text in batch if text.startswith("4.")}) > 1
    on_device = cached_batches(table.token_table(cache, torch.device("cpu")), batch_size=4, seed=3)
    assert next(iter(on_device)).captions == drawn[0]
    kept, aside = set_aside(captioned, 0.25)
    assert aside is not None
    assert {*captions(kept), *captions(aside)} == {*captions(captioned)}
    assert all(own == () or own[0] == f"{Path(aside.name(i)).stem}.0" for i, own in enumerate(captions(aside)))


def test_token_caches_know_whether_they_have_captions(tmp_path: Path, captioned: ImageSource) -> None:
    tokenizer = make_tokenizer()
    about = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=32)
    plain = open_source(tmp_path / "x.parquet")
    folder = write_tokens(tokenizer, plain, tmp_path / "tokens", about)
    cache = open_tokens(folder)
    assert cache.config.captions == ""
    assert cache.captions is None
    assert cache.captions_of(3) == ()
    assert next(iter(cached_batches(cache, batch_size=2, seed=0))).captions is None
    assert write_tokens(tokenizer, plain, folder, about, resume=True) == folder
    with pytest.raises(ValueError, match="holds tokens with other captions than"):
        write_tokens(tokenizer, captioned, folder, about, resume=True)
    named = open_tokens(folder, caption_template="a {name}")
    assert [named.captions_of(index) for index in range(4)] == [("a 0",), ("a 1",), ("a 2",), ("a 0",)]
    assert data_identity(named) != data_identity(cache)
    texts = write_tokens(tokenizer, captioned, tmp_path / "texts", about)
    assert open_tokens(texts).config.captions != ""
    assert open_tokens(texts, caption_column="none").captions is None
