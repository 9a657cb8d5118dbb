"""Small models and images that tests build from."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nextscale.checkpoint import ModelConfig
from nextscale.families import family
from nextscale.families.var import VAR, VARConfig
from nextscale.pictures import to_float
from nextscale.pipeline import VARPipeline
from nextscale.scaling.fits import UNIT
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig

SCALES = ((1, 1), (2, 2), (3, 3), (4, 4))
FAMILY_SCALES = {"var": SCALES, "raster": ((4, 4),), "rq": ((4, 4),) * 3, "maskgit": ((4, 4),), "dit": ((4, 4),)}
"""Maps that a toy of each kind that reads tokens predicts."""
CLASS_NAMES = ("blue", "green", "red")


def tokenizer_config(**changes: Any) -> VQVAEConfig:
    settings: dict = {
        "scales": SCALES, "codebook_size": 32, "latent_channels": 8, "channels": 16, "multipliers": (1, 2),
        "encoder_blocks": 1, "decoder_blocks": 1, "patch": 2, "attention": False,
    }  # fmt: skip
    return VQVAEConfig(**settings | changes)


def transformer_config(**changes: Any) -> VARConfig:
    settings: dict = {"depth": 2, "scales": SCALES, "codebook_size": 32, "latent_channels": 8, "classes": 3}
    return VARConfig(**settings | changes)


def make_tokenizer(seed: int = 0, **changes: Any) -> VQVAE:
    """A tokenizer whose codes are spread like its features, so that many of them are used."""
    torch.manual_seed(seed)
    model = VQVAE(tokenizer_config(**changes))
    torch.nn.init.normal_(model.quantizer.codebook, std=0.3)
    return model.eval()


def make_transformer(seed: int = 0, **changes: Any) -> VAR:
    """A transformer whose weights all matter: the initial rule leaves heads and branches nearly silent."""
    torch.manual_seed(seed)
    model = VAR(transformer_config(**changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25 if parameter.ndim > 1 else 0.1)
    return model.eval()


def make_pipeline(seed: int = 0, **changes: Any) -> VARPipeline:
    classes = changes.get("classes", 3)
    names = CLASS_NAMES if classes == 3 else ()
    config = ModelConfig(class_names=names, guidance=2.0, top_k=8, top_p=0.9)
    return VARPipeline(make_tokenizer(seed), make_transformer(seed, **changes), config)


def make_baseline(kind: str, **changes: Any) -> VARPipeline:
    """A model of another kind as it is initialised."""
    settings: dict = {"depth": 1, "heads": 1, "scales": FAMILY_SCALES[kind], "latent_channels": 8, "classes": 3}
    if kind != "dit":
        settings["codebook_size"] = 32
    one = family(kind)
    torch.manual_seed(0)
    model = one.network(one.config(**settings | changes))
    model.initialise()
    config = ModelConfig(kind=kind, class_names=CLASS_NAMES, guidance=1.0, top_k=0, top_p=0.0)
    return VARPipeline(make_tokenizer(scales=model.config.scales), model.eval(), config)


def toy_image(label: int, index: int, side: int = 16) -> Image.Image:
    """A square of the class's colour at a random place, on noise."""
    rng = np.random.default_rng([label, index])
    pixels = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    top, left = rng.integers(0, side // 2, 2)
    pixels[top : top + side // 2, left : left + side // 2, 2 - label % 3] = 230
    return Image.fromarray(pixels)


def noise(width: int, height: int) -> Image.Image:
    """An image in which no two places look alike."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def centre(height: int, width: int) -> np.ndarray:
    """A mask of the middle half of each side."""
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    return mask


def pixels(image: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])


class SmallFeatures(torch.nn.Module):
    """In the place of `load_features`: a few features of any network `small-6` with weights by seed."""

    def __init__(self, name: str = "small-6", weights: str = "") -> None:
        super().__init__()
        self.name = name
        torch.manual_seed(int(weights or 0))
        self.mixed = torch.nn.Linear(48, int(name.rsplit("-", 1)[1]))
        self.last = torch.nn.Linear(self.mixed.out_features, 4)

    @torch.no_grad()
    def outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.mixed(torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)).tanh()
        return pooled, self.last(pooled)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.outputs(images)[0]


def png(label: int, index: int) -> bytes:
    buffer = io.BytesIO()
    toy_image(label, index).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(folder: Path, files: int = 4, rows: int = 6, *, broken: tuple[int, ...] = ()) -> Path:
    """Files of images whose number tells label and content."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))})
    for file in range(files):
        numbers = range(file * rows, file * rows + rows)
        images = [{"bytes": b"broken" if n in broken else png(n % 3, n), "path": f"{n}.png"} for n in numbers]
        table = datasets.Dataset.from_dict({"image": images, "label": [n % 3 for n in numbers]}, features=features)
        table.to_parquet(str(folder / f"{file:02d}.parquet"))
    return folder


def write_table(path: Path, labels: list | None = None, *, name: str = "label", images: list | None = None) -> Path:
    """A parquet file as pandas writes it: without features of `datasets`. Images are of class i mod 3."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    count = len(labels) if labels is not None else 3
    columns: dict = {"image": images or [{"bytes": png(i % 3, i), "path": None} for i in range(count)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(columns | ({} if labels is None else {name: labels})), path)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of files in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def scaling_results(depths: tuple[int, ...]) -> list[dict]:
    """Results that follow laws exactly, with curves that fall toward them."""
    results = []
    for depth in depths:
        size = UNIT * depth**3
        point = {"loss": (1e-9 * size) ** -0.2, "loss_last": (2e-9 * size) ** -0.23,
                 "error": (1e-7 * size) ** -0.02, "error_last": (2e-7 * size) ** -0.03}  # fmt: skip
        curve = [
            {"images": 100 * k, "flops": 6.0 * size * 100 * k}
            | {name: value * (1 + 1 / k) for name, value in point.items()}
            for k in range(1, 9)
        ]
        results.append({"kind": "var", "depth": depth, "parameters": size, "curve": curve} | point)
    return results
