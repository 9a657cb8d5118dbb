"""`nextscale reconstruct`: images through the tokenizer and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextscale.cli.options import ConfigFile, ResultsFile, accepts, settle
from nextscale.cli.outputs import GRID, counted, named, results_folder, write_manifest, write_results
from nextscale.files import file_hash
from nextscale.settings import Computing

if TYPE_CHECKING:
    from PIL.Image import Image

    from nextscale.data.source import ImageSource
    from nextscale.tokenizer.vqvae import VQVAE

Images = Annotated[str, Parameter(help="Image files and folders of images.")]
GRID_IMAGES = 64
"""Images that the grid shows at most."""


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions(Computing, ResultsFile):
    """Settings of `nextscale reconstruct`."""

    model: str = "demo"
    "demo, a model, run or tokenizer folder, or a hub id."
    out: str = "out/reconstruct"
    "Folder for the reconstructions, grid.png and manifest.jsonl."
    scales: bool = False
    "Write a strip per image: the original, then the picture after each scale."
    precision: str = "auto"
    "Decoder precision: auto, fp32, bf16, fp16."


@accepts(ReconstructOptions, first=("model", "scales", "out"))
def reconstruct(*images: Images, config: ConfigFile = "", given: Any = None) -> None:
    """Encode and decode images; --scales shows what every scale adds."""
    options = settle(ReconstructOptions, given, file=config)
    paths = image_files(images)
    with results_folder(Path(options.out), len(paths)) as folder:
        from nextscale.catalogue import find_tokenizer
        from nextscale.data.source import ImageSource
        from nextscale.runtime import resolve_device, resolve_dtype

        device = resolve_device(options.device)
        tokenizer = find_tokenizer(options.model).to(device)
        tokenizer.set_decoder_dtype(resolve_dtype(options.precision, device))
        source = ImageSource(paths, None, ())
        entries, unreadable = write_reconstructions(tokenizer, source, folder, strips=options.scales)
    write_results(options.json, {"out": options.out, "images": entries, "unreadable": unreadable})
    if unreadable:
        files = f"{counted(len(unreadable), 'file')} of {len(paths)}"
        print(f"passed over {files}, not readable as images: {named(unreadable)}")
    mean = sum(entry["psnr"] for entry in entries) / len(entries)
    print(f"{counted(len(entries), 'image')}, mean PSNR {mean:.2f} dB: {Path(options.out) / GRID}")


def image_files(images: Sequence[str]) -> list[Path]:
    """All images named, folders opened. Raises ValueError for what is not there or holds none."""
    from nextscale.data.folders import images_below

    if not images:
        raise ValueError("no images given; expected image files or folders of images")
    paths: list[Path] = []
    for image in map(Path, images):
        if image.is_dir():
            found = images_below(image)
            if not found:
                raise ValueError(f"{image}: the folder holds no images")
            paths += found
        elif image.is_file():
            paths.append(image)
        else:
            raise ValueError(f"{image}: there is no such file or folder")
    return paths


def write_reconstructions(
    tokenizer: VQVAE, source: ImageSource, folder: Path, *, strips: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reconstruct every image; returns an entry for each, and why each file that cannot be read is passed over.

    Raises ValueError where none can be read.
    """
    from nextscale.data.decode import UnreadableImage
    from nextscale.pictures import grid, sheet
    from nextscale.progress import Progress

    entries: list[dict[str, Any]] = []
    unreadable: list[str] = []
    shown: list[Image] = []
    with closing(Progress(len(source), title="images", line_seconds=10)) as progress:
        for index in range(len(source)):
            progress.advance(index)
            try:
                picture = source.read(index)[0]
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            pictures, psnr = reconstruct_image(tokenizer, picture)
            path = folder / f"{len(entries):06d}.png"
            (grid(pictures, columns=len(pictures)) if strips else pictures[-1]).save(path)
            shown += (pictures if strips else [pictures[0], pictures[-1]]) if len(entries) < GRID_IMAGES else []
            figures = {"psnr": psnr[-1], "psnr_after_scale": psnr}
            entries.append({"file": path.name, "source": source.name(index)} | figures | {"sha256": file_hash(path)})
        progress.advance(len(source))
    if not entries:
        few = f"none of {len(source)} files is a readable image: " if len(source) > 1 else ""
        raise ValueError(few + named(unreadable))
    columns = len(tokenizer.schedule) + 1 if strips else 2 * max(1, math.isqrt(len(shown) // 2))
    sheet(shown, columns=columns).save(folder / GRID)
    write_manifest(folder, entries)
    return entries, unreadable


def reconstruct_image(tokenizer: VQVAE, picture: Image) -> tuple[list[Image], list[float]]:
    """The image at the model's size and as it is after each scale, and the PSNR after each scale in dB."""
    import torch

    from nextscale.data.decode import center_crop
    from nextscale.pictures import psnr, to_images, to_tensor

    image = to_tensor([center_crop(picture, tokenizer.config.image_size)]).to(tokenizer.device)
    stages = torch.cat(list(tokenizer.decode_scales(tokenizer.encode(image))))  # (K, 3, H, W)
    return to_images(torch.cat([image, stages])), [round(one, 3) for one in psnr(image, stages).tolist()]
