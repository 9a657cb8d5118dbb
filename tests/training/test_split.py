"""Images that are set aside: how many, which, and that nobody trains on them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nextscale.data.source import ImageSource, open_source
from nextscale.data.tokens import TokenCacheConfig, open_tokens
from nextscale.training.images import part, set_aside, spread
from nextscale.training.tokens import write_tokens
from toys import make_tokenizer, write_parquet

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("count", "share", "aside"),
    [(100, 0.05, 5), (24, 0.05, 1), (2, 0.05, 1), (20_000, 0.05, 512), (40, 0.5, 20), (1, 0.5, 0), (100, 0.0, 0)],
)
def test_how_many_are_set_aside(count: int, share: float, aside: int) -> None:
    source = ImageSource([Path(str(n)) for n in range(count)], list(range(count)), ())
    training, measured = set_aside(source, share)
    found = [] if measured is None else list(measured.rows)
    assert len(found) == aside
    assert sorted([*training.rows, *found]) == sorted(source.rows), "each image is on one side"
    for one in (training, *([measured] if measured is not None else [])):
        assert [str(path) for path in one.rows] == [str(one.label(index)) for index in range(len(one))]
    again = set_aside(source, share)[1]
    assert (again is None) == (measured is None) and (again is None or list(again.rows) == found)


def test_both_stages_set_the_same_images_aside(tmp_path: Path, image_folder: Make) -> None:
    folder, tokenizer = image_folder(per_class=14), make_tokenizer()
    (folder / "green" / "003.png").write_bytes(b"broken")  # tokens leave it out, and move up behind it
    source = open_source(folder)
    described = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=32)
    cache = open_tokens(write_tokens(tokenizer, source, tmp_path / "tokens", described))
    images, tokens = set_aside(source, 0.1)[1], set_aside(cache, 0.1)[1]
    assert images is not None and tokens is not None
    by_tokens = [source.rows[index] for index in tokens.rows["index"][:]]
    assert len(by_tokens) == 4 and by_tokens == list(images.rows)


def test_rows_of_tables_are_parted(tmp_path: Path) -> None:
    source = open_source(write_parquet(tmp_path / "rows"))
    training, measured = set_aside(source, 0.25)
    assert measured is not None and (len(training), len(measured)) == (18, 6)
    chosen = part(source, np.arange(24) == 7)
    assert chosen.read(0)[0].tobytes() == source.read(7)[0].tobytes() and chosen.label(0) == source.label(7)
    assert part(replace(source, labels=None), np.arange(24) == 7).labels is None


def test_what_is_looked_at_is_spread() -> None:
    assert spread(100, 5).tolist() == [0, 24, 49, 74, 99]
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert len(spread(5780, 512)) == 512
