"""Batches are functions of (seed, step, sample): resumable, the same for any number of processes."""

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.data import loader as loader_module
from nextscale.data.loader import ImageLoader, batch_indices, decoding_threads, iterate_images, read_ahead
from nextscale.data.source import open_source

Make = Callable[..., Path]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_every_epoch_holds_every_image_once(length: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * length // batch_size)
    indices = np.concatenate([batch_indices(length, batch_size, s, seed=seed)[0] for s in range(steps)])
    epochs = np.concatenate([batch_indices(length, batch_size, s, seed=seed)[1] for s in range(steps)])
    for epoch in range(2):
        assert sorted(indices[epochs == epoch]) == list(range(length))


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4), st.integers(0, 20))
def test_processes_share_the_same_batch(length: int, world: int, share: int, step: int) -> None:
    whole = batch_indices(length, world * share, step, seed=1)[0]
    parts = [batch_indices(length, world * share, step, seed=1, rank=r, world=world)[0] for r in range(world)]
    assert np.array_equal(np.concatenate(parts), whole)


def loader(folder: Path, **changes: object) -> ImageLoader:
    options: dict = {"size": (8, 8), "batch_size": 5, "seed": 3, "flip": True}
    return ImageLoader(source=open_source(folder), **options | changes)


def test_resumed_batches_are_the_same(image_folder: Make) -> None:
    images = loader(image_folder())
    through = list(islice(images.batches(), 7))
    resumed = list(islice(images.batches(4), 3))
    for a, b in zip(through[4:], resumed, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_threads_do_not_change_the_order(image_folder: Make) -> None:
    folder = image_folder()
    one, four = (list(islice(loader(folder, threads=n).batches(), 6)) for n in (1, 4))
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, four, strict=True))


def test_results_come_in_order_and_only_a_few_are_worked_on_ahead() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    results = read_ahead(work, range(100), threads=4, ahead=6)
    assert [next(results) for _ in range(10)] == [item * item for item in range(10)]
    results.close()
    assert max(begun) <= 9 + 6, "what nobody asks for is not read"
    assert list(read_ahead(work, range(7), threads=3, ahead=20)) == [item * item for item in range(7)]


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module.os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    assert decoding_threads() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert decoding_threads() == 1


def test_augmentation_changes_with_the_epoch(image_folder: Make) -> None:
    images = loader(image_folder(per_class=1), batch_size=3, enlarge=1.5)
    first, second = islice(images.batches(), 2)
    a, b = first.images[first.indices.argsort()], second.images[second.indices.argsort()]
    assert not torch.equal(a, b)


def test_unreadable_images_are_skipped_counted_and_named(image_folder: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = image_folder(per_class=4)
    (folder / "green" / "001.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        batches = list(iterate_images(open_source(folder), (8, 8), batch_size=4))
    assert sum(len(batch.images) for batch in batches) == 11
    assert 5 not in torch.cat([batch.indices for batch in batches])
    assert "green/001.png" in caplog.text
    assert "1 so far" in caplog.text
    assert all(len(batch.images) == 5 for batch in islice(loader(folder).batches(), 4))


def test_too_many_unreadable_images_are_an_error(image_folder: Make) -> None:
    folder = image_folder(per_class=4)
    for path in folder.glob("green/*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"3 of 12 images cannot be read.*green/00\d.png"):
        list(islice(loader(folder, limit=2).batches(), 8))


def test_nothing_but_unreadable_images_is_an_error(image_folder: Make) -> None:
    folder = image_folder(per_class=2)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="6 of 6 images cannot be read"):
        next(loader(folder).batches())
    with pytest.raises(ValueError, match="6 of 6 images cannot be read"):
        list(iterate_images(open_source(folder), (8, 8), batch_size=4))
