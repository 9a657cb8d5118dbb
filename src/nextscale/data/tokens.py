"""Token cache: what `nextscale tokenize` writes and stage 2 trains from.

    TOKENS/config.json        TokenCacheConfig; written last, so that a folder with it is complete
    TOKENS/shard-00000/ ...   `datasets` folders: tokens (views x L, uint16), label, index

Shards appear whole, so that an interrupted run continues behind its last one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.checkpoint import fingerprint
from nextscale.config import from_dict, read_json, require_at_least, require_seed, to_dict
from nextscale.data.identity import data_identity
from nextscale.data.loader import ImageBatch, Reader, batch_indices, iterate_images, require_readable, to_float
from nextscale.data.source import ImageSource
from nextscale.data.transform import center_crop, random_crop
from nextscale.files import complete_folder, write_json
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.runtime import Processes, autocast, precision_name
from nextscale.tokenizer.vqvae import VQVAE

logger = logging.getLogger("nextscale.data")

CONFIG = "config.json"
UNFINISHED = "unfinished.json"


@dataclass(frozen=True, kw_only=True)
class TokenCacheConfig:
    """What a token cache holds and where it came from."""

    kind: str = "tokens"
    data: str = ""
    "The images' `--data`, as it was spelled."
    source: str = ""
    "Fingerprint of the images; empty where an earlier version noted none."
    precision: str = ""
    "Precision of the encoder; empty where an earlier version noted none."
    tokenizer: str = ""
    "Fingerprint of the tokenizer's weights."
    scales: tuple[tuple[int, int], ...]
    codebook_size: int
    class_names: tuple[str, ...] = ()
    views: int = 1
    "Augmentations kept of each image; the first is the centre crop."
    enlarge: float = 1.125
    "Resize before the random crop of further views, as a multiple of the crop."
    flip: bool = False
    "Whether further views are mirrored half of the time."
    seed: int = 0
    "Seed of the further views."
    images: int = 0
    "Images held, unreadable ones not counted; 0 while unfinished."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "views", "enlarge")
        require_seed(self.seed)


@dataclass(frozen=True)
class TokenBatch:
    """A batch of token pyramids on the CPU, with a number per sample that decides class dropout."""

    tokens: TokenPyramid
    labels: Tensor  # (B,) int64, NO_CLASS without classes
    chance: Tensor  # (B,) float64 uniform in [0, 1), a function of (seed, epoch, sample)
    position: dict[str, Any] | None = None  # where a stream stands behind this batch


@dataclass(frozen=True)
class TokenCache:
    """Memory-mapped tokens by index."""

    config: TokenCacheConfig
    rows: Any  # datasets.Dataset

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.config.class_names

    @property
    def labelled_by(self) -> str:
        return ""  # the cache does not tell where its images had their labels

    @property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(self.config.scales)

    def batch(self, indices: np.ndarray, views: np.ndarray | int = 0) -> tuple[TokenPyramid, Tensor]:
        """Tokens and labels (B,) of some images, each in one view."""
        rows = self.rows[indices]
        length = self.schedule.length
        packed = np.asarray(rows["tokens"]).reshape(len(indices), self.config.views, length)
        chosen = packed[np.arange(len(indices)), views].astype(np.int64)
        labels = torch.from_numpy(np.asarray(rows["label"], dtype=np.int64))
        return TokenPyramid(torch.from_numpy(chosen), self.schedule), labels


def is_token_cache(folder: str | Path) -> bool:
    """Whether `--data` names a token cache, finished or not, rather than images."""
    return any((Path(folder) / name).is_file() for name in (CONFIG, UNFINISHED)) and not _holds_run(Path(folder))


def _holds_run(folder: Path) -> bool:
    return not (folder / UNFINISHED).is_file() and read_json(folder / CONFIG).get("kind") != "tokens"


def open_tokens(folder: str | Path, *, tokenizer: VQVAE | None = None) -> TokenCache:
    """Open a finished cache.

    Raises ValueError when it is unfinished, damaged, or made by another tokenizer than the one given.
    """
    import datasets

    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"tokens {folder}: not finished; continue with nextscale tokenize --resume")
    config = from_dict(TokenCacheConfig, read_json(folder / CONFIG), where=str(folder / CONFIG))
    if tokenizer is not None and config.tokenizer != fingerprint(tokenizer):
        raise ValueError(
            f"tokens {folder}: made by another tokenizer than the one given; "
            "give the one they were made with or make them again with nextscale tokenize"
        )
    try:
        shards = [datasets.load_from_disk(str(shard)) for shard in _shards(folder)]
        rows: Any = datasets.concatenate_datasets(shards)  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"tokens {folder}: cannot be read ({str(error).splitlines()[0]}); make them again") from error
    if len(rows) != config.images:
        raise ValueError(f"tokens {folder}: holds {len(rows)} of {config.images} images; make them again")
    return TokenCache(config, rows.with_format("numpy"))


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("shard-*") if re.fullmatch(r"shard-\d{5,}", path.name))


@torch.no_grad()
def write_tokens(
    tokenizer: VQVAE,
    source: ImageSource,
    out: str | Path,
    config: TokenCacheConfig,
    *,
    resume: bool = False,
    batch_size: int = 64,
    shard_images: int = 16_384,
    dtype: torch.dtype = torch.float32,
    limit: int = 100,
    advance: Callable[[int], None] | None = None,
    processes: Processes = Processes(),  # noqa: B008
    wait: Callable[[], None] = lambda: None,
) -> Path:
    """Tokenise all images of a source into a cache; returns its folder.

    `config` says views and augmentation; tokenizer, classes and counts are filled in here. `advance` is told
    how many images are done. Several processes take shards in turn; `wait` returns once all have called it. Raises
    ValueError for a folder in use (without `resume`, or made otherwise), and when more than `limit` images are
    unreadable.
    """
    import datasets

    assert tokenizer.config.codebook_size <= 2**16, "tokens are stored in 16 bits"
    out = Path(out)
    config = replace(
        config,
        tokenizer=fingerprint(tokenizer),
        scales=tokenizer.config.scales,
        codebook_size=tokenizer.config.codebook_size,
        class_names=source.class_names,
        source=data_identity(source).fingerprint,
        precision=precision_name(dtype),
    )
    require_readable(source, limit=limit)
    finished = processes.is_main and _start(out, config, resume=resume)
    wait()
    if finished or (not processes.is_main and _start(out, config, resume=True)):
        return out
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("uint16"), length=config.views * tokenizer.schedule.length),
            "label": datasets.Value("int32"),
            "index": datasets.Value("int64"),
        }
    )
    reader = Reader(source, limit=limit)
    for number, first in enumerate(range(0, len(source), shard_images)):
        shard = out / f"shard-{number:05d}"
        indices = range(first, min(first + shard_images, len(source)))
        if number % processes.world == processes.rank and not shard.exists():
            rows = _tokenize(tokenizer, reader, indices, config, batch_size, dtype, advance)
            with complete_folder(shard) as partial:
                datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(partial))
        if advance is not None:
            advance(indices.stop)
    wait()
    if processes.is_main:
        total = sum(len(datasets.load_from_disk(str(shard))) for shard in _shards(out))
        write_json(out / CONFIG, to_dict(replace(config, images=total)))
        (out / UNFINISHED).unlink()
    wait()
    return out


def recorded_precision(out: Path) -> str:
    """Precision of a cache that is there, finished or not; empty where none is noted. Raises ValueError."""
    record = _record(out)
    return "" if record is None else str(read_json(record).get("precision", ""))


def _record(out: Path) -> Path | None:
    """The file that says what a cache is, finished or not."""
    return next((path for path in (out / CONFIG, out / UNFINISHED) if path.is_file()), None)


def _start(out: Path, config: TokenCacheConfig, *, resume: bool) -> bool:
    """Claim the folder; True when it holds the finished cache already."""
    record = _record(out)
    if record is None and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out}: holds other files; choose another --out")
    if record is None or (record.name == UNFINISHED and not _shards(out)):  # nothing to continue
        write_json(out / UNFINISHED, to_dict(config))
        return False
    if not resume:
        raise ValueError(f"{out}: holds tokens already; add --resume to continue or choose another --out")
    before = from_dict(TokenCacheConfig, read_json(record), where=str(record))
    if not before.source:
        logger.warning("%s: does not say what its images were; whether they are the same was not checked", out)
        before = replace(before, source=config.source, precision=config.precision)
    was, now = to_dict(replace(before, images=0, data="")), to_dict(replace(config, data=""))
    changed = [name for name in now if was[name] != now[name]]
    if {"source", "class_names"} & set(changed):
        raise ValueError(f"{out}: holds tokens of other images than {config.data} holds now; choose another --out")
    if changed:
        name = changed[0]
        raise ValueError(
            f"{out}: holds tokens made with other settings: {name} was {was[name]}, now {now[name]}; "
            "choose another --out"
        )
    return record.name == CONFIG


def _tokenize(
    tokenizer: VQVAE,
    reader: Reader,
    indices: range,
    config: TokenCacheConfig,
    batch_size: int,
    dtype: torch.dtype,
    advance: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Columns of one shard."""
    device = tokenizer.quantizer.codebook.device
    views: list[np.ndarray] = []
    labels = indices_read = np.empty(0, dtype=np.int64)
    for view in range(config.views):
        packed: list[np.ndarray] = []
        seen: list[Tensor] = []
        classes: list[Tensor] = []
        for batch in iterate_images(
            reader.source, tokenizer.config.image_size, batch_size=batch_size, indices=indices, reader=reader,
            crop=lambda image, index, view=view: _view(image, index, view, tokenizer.config.image_size, config),
        ):  # fmt: skip
            with autocast(device, dtype):
                tokens = tokenizer.encode(to_float(batch.images.to(device)))
            packed.append(tokens.packed.cpu().numpy().astype(np.uint16))
            seen.append(batch.indices)
            classes.append(batch.labels)
            if advance is not None and view == config.views - 1:
                advance(int(batch.indices[-1]) + 1)
        if packed:
            views.append(np.concatenate(packed))
            labels, indices_read = torch.cat(classes).numpy(), torch.cat(seen).numpy()
    tokens_or_none = np.concatenate(views, axis=1) if views else np.empty((0, 0), dtype=np.uint16)
    return {"tokens": list(tokens_or_none), "label": labels, "index": indices_read}


def _view(image: Image.Image, index: int, view: int, size: tuple[int, int], config: TokenCacheConfig) -> np.ndarray:
    if view == 0:
        return center_crop(image, size)
    generator = np.random.default_rng([config.seed, view, index])
    return random_crop(image, size, generator=generator, enlarge=config.enlarge, flip=config.flip)


def cached_batches(
    cache: TokenCache, *, batch_size: int, seed: int, rank: int = 0, world: int = 1, start: int = 0
) -> Iterator[TokenBatch]:
    """Endless training batches from step `start`; each epoch sees one view of each image."""
    step = start
    while True:
        indices, epochs = batch_indices(len(cache), batch_size, step, seed=seed, rank=rank, world=world)
        chance, view_chance = sample_chances(seed, epochs, indices)
        tokens, labels = cache.batch(indices, (view_chance * cache.config.views).astype(np.int64))
        yield TokenBatch(tokens, labels, torch.from_numpy(chance))
        step += 1


def encoded_batches(
    tokenizer: VQVAE, batches: Iterable[ImageBatch], *, seed: int, dtype: torch.dtype = torch.float32
) -> Iterator[TokenBatch]:
    """Like `cached_batches`, from images tokenised on the way."""
    device = tokenizer.quantizer.codebook.device
    for batch in batches:
        with autocast(device, dtype):
            tokens = tokenizer.encode(to_float(batch.images.to(device)))
        chance = sample_chances(seed, batch.epochs.numpy(), batch.indices.numpy())[0]
        yield TokenBatch(tokens, batch.labels, torch.from_numpy(chance), batch.position)


def sample_chances(seed: int, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Two uniform numbers per sample, (2, B) in [0, 1): functions of (seed, epoch, sample) alone."""
    keys = zip(epochs.tolist(), indices.tolist(), strict=True)
    return np.stack([np.random.default_rng([seed, epoch, index, 1]).random(2) for epoch, index in keys], axis=1)
