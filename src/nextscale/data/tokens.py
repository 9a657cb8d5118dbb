"""Token caches: the format on disk, reading, and batches. `nextscale tokenize` writes them, stage 2 trains from them.

    TOKENS/config.json        TokenCacheConfig; written last: a folder that has it is complete
    TOKENS/unfinished.json    the same, until then
    TOKENS/shard-00000/ ...   `datasets` folders: tokens (views x L, uint16), label, index; captions where there are any

A shard appears only when complete, so that an interrupted run continues behind its last one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nextscale.config import from_dict, read_json, require_at_least, require_seed, to_dict
from nextscale.data.captions import CAPTIONS, NO_CAPTIONS, Captions, captions_of_classes, drawn_captions
from nextscale.data.loader import batch_indices
from nextscale.errors import one_line
from nextscale.files import complete_folder, write_json
from nextscale.pyramid import ScaleSchedule, TokenPyramid

logger = logging.getLogger("nextscale.data")

CONFIG = "config.json"
UNFINISHED = "unfinished.json"


@dataclass(frozen=True, kw_only=True)
class TokenCacheConfig:
    """What a token cache holds, and how it was made."""

    kind: str = "tokens"
    data: str = ""
    "The images' `--data`, as it was spelled."
    source: str = ""
    "Fingerprint of the images; empty in caches of earlier versions."
    precision: str = ""
    "Precision of the encoder; empty in caches of earlier versions."
    tokenizer: str = ""
    "Fingerprint of the tokenizer's weights."
    scales: tuple[tuple[int, int], ...]
    codebook_size: int
    class_names: tuple[str, ...] = ()
    captions: str = ""
    "Fingerprint of the images' captions, which the shards hold; empty without."
    views: int = 1
    "Crops kept of each image; the first is the centre, further ones are random."
    enlarge: float = 1.125
    "Size of the image before a random crop, as a multiple of the crop."
    flip: bool = False
    "Whether half of the random crops are mirrored."
    seed: int = 0
    "Seed of the random crops."
    images: int = 0
    "Images in the cache, without unreadable ones; 0 while unfinished."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "views", "enlarge")
        require_seed(self.seed)


@dataclass(frozen=True)
class TokenBatch:
    """A batch to train on, with a random number per sample that decides class dropout.

    Which of an image's captions is drawn is a function of (seed, epoch, sample).
    """

    tokens: TokenPyramid | Tensor  # images (B, 3, H, W) in [-1, 1] for models that read no tokens
    labels: Tensor  # (B,) int64, NO_CLASS without classes
    chance: Tensor  # (B,) float64 uniform in [0, 1), a function of (seed, epoch, sample)
    captions: list[str] | None = None  # (B,) one of each image, empty for one without; None where the data has none
    position: dict[str, Any] | None = None  # of a stream, behind this batch


@dataclass(frozen=True)
class TokenCache:
    """Memory-mapped tokens by index."""

    config: TokenCacheConfig
    rows: Any  # datasets.Dataset of tokens, label and index
    captions: Captions | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.config.class_names

    @property
    def labelled_by(self) -> str:
        return ""  # not recorded

    @property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(self.config.scales)

    @property
    def captioned_by(self) -> str:
        return "" if self.captions is None else self.captions.origin

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Captions of an image; empty for none."""
        return () if self.captions is None else self.captions[index]

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


def open_tokens(
    folder: str | Path, *, tokenizer: str = "", caption_column: str = "", caption_template: str = ""
) -> TokenCache:
    """Open a finished cache; `tokenizer` is the fingerprint of the one that must have made it, empty for any.

    Its captions are those it holds, or with a template the class names; none with the `caption_column` none. Raises
    ValueError when the cache is unfinished, damaged, made by another tokenizer, or has no classes for a template.
    """
    import datasets

    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"tokens {folder}: not finished; continue with nextscale tokenize --resume")
    config = from_dict(TokenCacheConfig, read_json(folder / CONFIG), where=str(folder / CONFIG))
    if tokenizer and config.tokenizer != tokenizer:
        raise ValueError(
            f"tokens {folder}: made by another tokenizer than the one given; "
            "give the one they were made with or make them again with nextscale tokenize"
        )
    try:
        shards: list[Any] = [datasets.load_from_disk(str(shard)) for shard in _shards(folder)]
        rows = datasets.concatenate_datasets(shards)
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"tokens {folder}: cannot be read ({one_line(error)}); make them again") from error
    if len(rows) != config.images:
        raise ValueError(f"tokens {folder}: holds {len(rows)} of {config.images} images; make them again")
    captions = None
    if CAPTIONS in rows.column_names:  # not among the rows, whose reading would make each of them an array
        captions = Captions(rows.data.column(CAPTIONS), "the token cache")
        rows = rows.remove_columns(CAPTIONS)
    rows = rows.with_format("numpy")
    if caption_column == NO_CAPTIONS:
        captions = None
    elif caption_template:
        captions = captions_of_classes(config.class_names, rows["label"][:], caption_template, str(folder))
    return TokenCache(config, rows, captions)


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("shard-*") if re.fullmatch(r"shard-\d{5,}", path.name))


def recorded_precision(out: Path) -> str:
    """Precision of the cache in a folder, finished or not; empty where none is recorded. Raises ValueError."""
    record = _record(out)
    return "" if record is None else str(read_json(record).get("precision", ""))


def _record(out: Path) -> Path | None:
    """The file with the config of a cache, finished or not."""
    return next((path for path in (out / CONFIG, out / UNFINISHED) if path.is_file()), None)


def claim(out: Path, config: TokenCacheConfig, *, resume: bool) -> bool:
    """Take a folder for a cache, new or to be continued; True when it holds the finished cache already.

    Raises ValueError for a folder in use: without `resume`, or where its tokens were made otherwise.
    """
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
    if "captions" in changed:
        raise ValueError(
            f"{out}: holds tokens with other captions than {config.data} has now, or with none; choose another --out, "
            "or name the captions it was made with (--caption-column, --caption-template)"
        )
    if changed:
        name = changed[0]
        raise ValueError(
            f"{out}: holds tokens made with other settings: {name} was {was[name]}, now {now[name]}; "
            "choose another --out"
        )
    return record.name == CONFIG


def shard_folder(out: Path, number: int) -> Path:
    """The folder of a shard."""
    return out / f"shard-{number:05d}"


def write_shard(shard: Path, rows: dict[str, Any], config: TokenCacheConfig) -> None:
    """Write the columns `tokens`, `label` and `index` of a shard, which appears only when complete.

    Also `captions`, where the config says that there are any.
    """
    import datasets

    length = config.views * ScaleSchedule(config.scales).length
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("uint16"), length=length),
            "label": datasets.Value("int32"),
            "index": datasets.Value("int64"),
        }
        | ({CAPTIONS: datasets.Sequence(datasets.Value("string"))} if config.captions else {})
    )
    with complete_folder(shard) as partial:
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(partial))


def finish(out: Path, config: TokenCacheConfig) -> None:
    """Count the images of all shards and write the config, which makes the cache complete."""
    import datasets

    total = sum(len(datasets.load_from_disk(str(shard))) for shard in _shards(out))
    write_json(out / CONFIG, to_dict(replace(config, images=total)))
    (out / UNFINISHED).unlink()


class HasTokens(Protocol):
    """A token cache, wherever its tokens lie."""

    @property
    def config(self) -> TokenCacheConfig: ...
    @property
    def captions(self) -> Captions | None: ...
    def __len__(self) -> int: ...
    def batch(self, indices: np.ndarray, views: np.ndarray | int = 0) -> tuple[TokenPyramid, Tensor]: ...


def cached_batches(
    cache: HasTokens, *, batch_size: int, seed: int, rank: int = 0, world: int = 1, start: int = 0
) -> Iterator[TokenBatch]:
    """Endless training batches from step `start`; each epoch sees one view of each image."""
    step = start
    while True:
        indices, epochs = batch_indices(len(cache), batch_size, step, seed=seed, rank=rank, world=world)
        chance, view_chance, caption_chance = sample_chances(seed, epochs, indices)
        found = cache.captions
        captions = None if found is None else drawn_captions([found[i] for i in indices], caption_chance)
        tokens, labels = cache.batch(indices, (view_chance * cache.config.views).astype(np.int64))
        yield TokenBatch(tokens, labels, torch.from_numpy(chance), captions)
        step += 1


def sample_chances(seed: int, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Three uniform numbers per sample, (3, B) in [0, 1): functions of (seed, epoch, sample) alone."""
    keys = zip(epochs.tolist(), indices.tolist(), strict=True)
    return np.stack([np.random.default_rng([seed, epoch, index, 1]).random(3) for epoch, index in keys], axis=1)
