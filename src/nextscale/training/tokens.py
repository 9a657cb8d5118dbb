"""Tokenise images: into a cache, or batch by batch during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.checkpoint import fingerprint
from nextscale.data.captions import CAPTIONS, drawn_captions
from nextscale.data.decode import center_crop, random_crop
from nextscale.data.identity import data_identity
from nextscale.data.loader import ImageBatch, Reader, iterate_images, require_readable
from nextscale.data.source import ImageSource
from nextscale.data.tokens import (
    TokenBatch,
    TokenCacheConfig,
    claim,
    finish,
    sample_chances,
    shard_folder,
    write_shard,
)
from nextscale.pictures import to_float
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import Processes, autocast, precision_name
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.transfer import to_device


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
) -> Path:
    """Tokenise all images of a source into a cache; returns its folder.

    `config` gives views and augmentation; tokenizer, classes and counts are filled in here. `advance` is called with
    the number of images done. Several processes take shards in turn. Raises ValueError for a folder in use (without
    `resume`, or with other settings), and when more than `limit` images are unreadable.
    """
    import datasets

    datasets.disable_progress_bars()  # `advance` reports instead
    assert tokenizer.config.codebook_size <= 2**16, "tokens are stored in 16 bits"
    out = Path(out)
    config = replace(
        config,
        tokenizer=fingerprint(tokenizer),
        scales=tokenizer.config.scales,
        codebook_size=tokenizer.config.codebook_size,
        class_names=source.class_names,
        captions="" if source.captions is None else source.captions.fingerprint(),
        source=data_identity(replace(source, captions=None)).fingerprint,
        precision=precision_name(dtype),
    )
    require_readable(source, limit=limit)
    finished = processes.is_main and claim(out, config, resume=resume)
    processes.wait()
    if finished or (not processes.is_main and claim(out, config, resume=True)):
        return out
    reader = Reader(source, limit=limit)
    for number, first in enumerate(range(0, len(source), shard_images)):
        shard = shard_folder(out, number)
        indices = range(first, min(first + shard_images, len(source)))
        if number % processes.world == processes.rank and not shard.exists():
            write_shard(shard, _tokenize(tokenizer, reader, indices, config, batch_size, dtype, advance), config)
        if advance is not None:
            advance(indices.stop)
    processes.wait()
    if processes.is_main:
        finish(out, config)
    processes.wait()
    return out


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
    size = tokenizer.config.image_size
    views: list[np.ndarray] = []
    labels = indices_read = np.empty(0, dtype=np.int64)
    for view in range(config.views):
        crop = partial(_crop_view, view=view, size=size, config=config)
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in iterate_images(
            reader.source, size, batch_size=batch_size, indices=indices, crop=crop, reader=reader
        ):
            packed = encode(tokenizer, batch.images, dtype).packed.cpu().numpy().astype(np.uint16)
            parts.append((packed, batch.labels.numpy(), batch.indices.numpy()))
            if advance is not None and view == config.views - 1:
                advance(int(batch.indices[-1]) + 1)
        if parts:
            tokens, labels, indices_read = map(np.concatenate, zip(*parts, strict=True))
            views.append(tokens)
    packed = list(np.concatenate(views, axis=1)) if views else []
    captions = (
        {CAPTIONS: [list(reader.source.captions_of(i)) for i in indices_read.tolist()]} if config.captions else {}
    )
    return {"tokens": packed, "label": labels, "index": indices_read} | captions


def _crop_view(
    image: Image.Image, index: int, *, view: int, size: tuple[int, int], config: TokenCacheConfig
) -> np.ndarray:
    """Pixels (H, W, 3) of an image in one of its views: the centre, or a random crop."""
    if view == 0:
        return center_crop(image, size)
    generator = np.random.default_rng([config.seed, view, index])
    return random_crop(image, size, generator=generator, enlarge=config.enlarge, flip=config.flip)


def encode(tokenizer: VQVAE, images: Tensor, dtype: torch.dtype) -> TokenPyramid:
    """Tokens of images (B, 3, H, W) uint8, on the tokenizer's device."""
    with autocast(tokenizer.device, dtype):
        return tokenizer.encode(to_float(to_device(images, tokenizer.device)))


def encoded_batches(
    tokenizer: VQVAE | None,
    batches: Iterable[ImageBatch],
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Iterator[TokenBatch]:
    """Like `cached_batches`, from images that are tokenised on the way, on the tokenizer's device.

    Without a tokenizer, the images themselves, on `device`.
    """
    for batch in batches:
        if tokenizer is None:
            tokens = to_float(to_device(batch.images, device))
        else:
            tokens = encode(tokenizer, batch.images, dtype)
        chance, _, caption_chance = sample_chances(seed, batch.epochs.numpy(), batch.indices.numpy())
        captions = None if batch.captions is None else drawn_captions(batch.captions, caption_chance)
        yield TokenBatch(tokens, batch.labels, torch.from_numpy(chance), captions, batch.position)
