"""Arrays of frames to a token cache, as fast as a GPU goes: `nextscale tokenize` reads files one by one.

python benchmarks/gpu_tokens.py TOKENIZER FRAMES OUT [--device cuda]
"""

from __future__ import annotations

from pathlib import Path

import cyclopts
import datasets
import numpy as np
import torch

from gpu_frames import class_names
from nextscale.catalogue import find_tokenizer
from nextscale.checkpoint import fingerprint
from nextscale.data.tokens import TokenCacheConfig, claim, finish, shard_folder, write_shard
from nextscale.runtime import precision_name, resolve_device, resolve_training_dtype
from nextscale.training.tokens import encode

AT_ONCE = 1024


def main(tokenizer: Path, frames: Path, out: Path, *, device: str = "auto") -> None:
    """One shard for each file of frames; an interrupted call continues."""
    datasets.disable_progress_bars()
    files = sorted(frames.glob("*.npy"))
    where = resolve_device(device)
    dtype = resolve_training_dtype("auto", where)
    coder = find_tokenizer(tokenizer).to(where).requires_grad_(False)
    labels = {int(file.stem.split("-")[1]) for file in files}
    names = next(names for names in map(class_names, (False, True)) if len(names) == len(labels))
    about = TokenCacheConfig(
        data=str(frames), source=f"{len(files)} files of frames", tokenizer=fingerprint(coder), class_names=names,
        scales=coder.config.scales, codebook_size=coder.config.codebook_size, precision=precision_name(dtype),
    )  # fmt: skip
    if claim(out, about, resume=True):
        return
    first = 0
    for number, file in enumerate(files):
        images = torch.from_numpy(np.load(file)).permute(0, 3, 1, 2)
        if not shard_folder(out, number).exists():
            with torch.no_grad():
                parts = [encode(coder, part, dtype).packed.cpu() for part in images.split(AT_ONCE)]
            tokens = torch.cat(parts).numpy().astype(np.uint16)
            label = np.full(len(images), int(file.stem.split("-")[1]))
            rows = {"tokens": list(tokens), "label": label, "index": np.arange(first, first + len(images))}
            write_shard(shard_folder(out, number), rows, about)
        first += len(images)
    finish(out, about)
    print(f"{out}: {first} images")


if __name__ == "__main__":
    cyclopts.run(main)
