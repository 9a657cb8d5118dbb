"""The token cache: what goes in comes out, for the right tokenizer only."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from nextscale.checkpoint import fingerprint
from nextscale.data.loader import ImageLoader, iterate_images
from nextscale.data.source import open_source
from nextscale.data.tokens import TokenCache, TokenCacheConfig, cached_batches, is_token_cache, open_tokens
from nextscale.pictures import to_float
from nextscale.runtime import Processes
from nextscale.training import table
from nextscale.training import tokens as module
from nextscale.training.tokens import encoded_batches, write_tokens
from toys import CLASS_NAMES, make_tokenizer

Make = Callable[..., Path]


def write(out: Path, folder: Path, *, views: int = 1, **options: Any) -> Path:
    tokenizer = make_tokenizer()
    config = TokenCacheConfig(
        data=str(folder), scales=tokenizer.config.scales, codebook_size=32, views=views, flip=True
    )
    return write_tokens(tokenizer, open_source(folder), out, config, batch_size=5, **options)


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path, image_folder: Make) -> None:
    folder, tokenizer = image_folder(), make_tokenizer()
    cache = open_tokens(write(tmp_path / "tokens", folder, shard_images=10), tokenizer=fingerprint(tokenizer))
    (batch,) = iterate_images(open_source(folder), (16, 16), batch_size=24)
    pyramid, labels = cache.batch(np.arange(24))
    direct = tokenizer.encode(to_float(batch.images))
    assert (pyramid.packed == direct.packed).float().mean() > 0.99  # other batches may round otherwise
    assert torch.equal(labels, batch.labels)
    assert cache.config.class_names == CLASS_NAMES
    assert cache.config.images == len(cache) == 24
    assert len(list((tmp_path / "tokens").glob("shard-*"))) == 3
    assert cache.rows.features["tokens"].feature.dtype == "uint16"
    assert is_token_cache(tmp_path / "tokens")
    assert not is_token_cache(folder)


def test_views_differ_and_the_first_is_the_centre(tmp_path: Path, image_folder: Make) -> None:
    folder = image_folder(side=24)
    one, three = (open_tokens(write(tmp_path / str(n), folder, views=n)) for n in (1, 3))
    indices = np.arange(24)
    assert torch.equal(one.batch(indices)[0].packed, three.batch(indices, 0)[0].packed)
    assert not torch.equal(three.batch(indices, 1)[0].packed, three.batch(indices, 2)[0].packed)
    seen = {tuple(batch.tokens.packed[0].tolist()) for batch in islice(cached_batches(three, batch_size=24, seed=0), 4)}
    assert len(seen) > 1


def test_another_tokenizer_is_refused(tmp_path: Path, image_folder: Make) -> None:
    folder = write(tmp_path / "tokens", image_folder())
    with pytest.raises(ValueError, match="made by another tokenizer"):
        open_tokens(folder, tokenizer=fingerprint(make_tokenizer(seed=1)))


def test_an_interrupted_run_continues_behind_its_last_shard(
    tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = image_folder(), tmp_path / "tokens"
    whole = open_tokens(write(tmp_path / "whole", folder, shard_images=7))
    original, calls = module._tokenize, []

    def stopping(*arguments: Any) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "_tokenize", stopping)
    with pytest.raises(KeyboardInterrupt):
        write(out, folder, shard_images=7)
    with pytest.raises(ValueError, match="not finished; continue with nextscale tokenize --resume"):
        open_tokens(out)
    with pytest.raises(ValueError, match="add --resume"):
        write(out, folder, shard_images=7)
    cache = open_tokens(write(out, folder, shard_images=7, resume=True))
    assert len(calls) == 5, "two shards before, two after the interruption"
    everything = np.arange(24)
    assert torch.equal(cache.batch(everything)[0].packed, whole.batch(everything)[0].packed)
    assert write(out, folder, resume=True) == out, "complete: nothing to do"
    with pytest.raises(ValueError, match="other settings"):
        write(out, folder, views=2, resume=True)


def test_processes_share_the_shards(tmp_path: Path, image_folder: Make) -> None:
    tokenizer, source = make_tokenizer(), open_source(image_folder())
    described = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=32)
    alone = open_tokens(write_tokens(tokenizer, source, tmp_path / "alone", described, shard_images=5))
    barrier, copies = threading.Barrier(2, timeout=60), [make_tokenizer(), make_tokenizer()]

    class Threads(Processes):
        def wait(self) -> None:
            barrier.wait()

    def work(rank: int) -> Path:
        shared = {"shard_images": 5, "processes": Threads(rank, 2, rank)}
        return write_tokens(copies[rank], source, tmp_path / "shared", described, **shared)

    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(work, range(2)))
    assert folders == [tmp_path / "shared"] * 2
    shared = open_tokens(tmp_path / "shared")
    assert len(shared) == len(alone) == 24
    everything = np.arange(24)
    for one, two in zip(alone.batch(everything), shared.batch(everything), strict=True):
        assert torch.equal(getattr(one, "packed", one), getattr(two, "packed", two))


def test_foreign_folders_are_not_written_into(tmp_path: Path, image_folder: Make) -> None:
    folder = image_folder()
    with pytest.raises(ValueError, match="holds other files"):
        write(folder, folder)


def test_unreadable_images_are_left_out(tmp_path: Path, image_folder: Make) -> None:
    folder = image_folder(per_class=3)
    (folder / "green" / "001.png").write_bytes(b"broken")
    cache = open_tokens(write(tmp_path / "tokens", folder))
    assert len(cache) == 8
    assert list(cache.rows["index"]) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_table_gives_the_batches_of_its_cache(
    tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "CHUNK", 5)
    cache = open_tokens(write(tmp_path / "tokens", image_folder(), views=3))
    cache = replace(cache, rows=cache.rows.select(range(20, 1, -2)))  # as where some images are set aside
    settings = {"batch_size": 7, "seed": 4, "start": 2}
    ours = cached_batches(table.token_table(cache, torch.device("cpu")), **settings)
    for one, other in zip(islice(ours, 5), cached_batches(cache, **settings), strict=False):
        assert torch.equal(one.tokens.packed, other.tokens.packed) and one.tokens.packed.dtype == torch.int64
        assert torch.equal(one.labels, other.labels) and torch.equal(one.chance, other.chance)


def test_a_table_is_made_where_it_takes_a_quarter_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    about = TokenCacheConfig(scales=((1, 2),), codebook_size=8, views=3)
    cache = TokenCache(about, range(10))  # 10 x 3 x 2 tokens of 2 bytes
    monkeypatch.setattr(table, "token_table", lambda cache, device: "table")
    cuda, given = torch.device("cuda"), []
    for free in (479, 480):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1000))
        given.append(table.table_or_cache(cache, cuda))
    assert given == [cache, "table"]
    assert table.table_or_cache(cache, torch.device("cpu")) is cache


def test_a_table_holds_all_sixteen_bits() -> None:
    about = TokenCacheConfig(scales=((1, 2),), codebook_size=2**16)
    rows = Dataset.from_dict({"tokens": [[65535, 0], [32768, 7]], "label": [0, 1]}).with_format("numpy")
    packed, labels = table.token_table(TokenCache(about, rows), torch.device("cpu")).batch(np.array([1, 0]))
    assert packed.packed.tolist() == [[32768, 7], [65535, 0]] and labels.tolist() == [1, 0]


def test_batches_from_images_and_from_the_cache_agree(tmp_path: Path, image_folder: Make) -> None:
    folder, tokenizer = image_folder(), make_tokenizer()
    cache = open_tokens(write(tmp_path / "tokens", folder))
    images = ImageLoader(source=open_source(folder), size=(16, 16), batch_size=6, seed=4, enlarge=1.0)
    encoded = encoded_batches(tokenizer, images.batches(), seed=4, device=tokenizer.device)
    for fresh, cached in zip(islice(encoded, 9), cached_batches(cache, batch_size=6, seed=4), strict=False):
        assert torch.equal(fresh.labels, cached.labels)
        assert torch.equal(fresh.chance, cached.chance)
        assert (fresh.tokens.packed == cached.tokens.packed).float().mean() > 0.98


def test_ranks_and_resume_give_the_same_samples(tmp_path: Path, image_folder: Make) -> None:
    cache = open_tokens(write(tmp_path / "tokens", image_folder()))
    whole = list(islice(cached_batches(cache, batch_size=6, seed=0), 5))
    halves = [list(islice(cached_batches(cache, batch_size=6, seed=0, rank=r, world=2, start=2), 3)) for r in (0, 1)]
    for step in range(3):
        joined = torch.cat([halves[0][step].chance, halves[1][step].chance])
        assert torch.equal(joined, whole[step + 2].chance)
    assert all((batch.chance >= 0).all() and (batch.chance < 1).all() for batch in whole)
