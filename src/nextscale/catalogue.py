"""Find a model by name: bundled ones, folders, the authors' files, their hub repository, and other hub ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

import torch

from nextscale.checkpoint import (
    CONFIG,
    ModelConfig,
    fingerprint,
    load_config,
    load_tokenizer,
    load_transformer,
    module_from_state,
    unfinished,
)
from nextscale.classes import imagenet_names
from nextscale.errors import one_line
from nextscale.families.config import transformer_presets
from nextscale.families.pair import ModelPair
from nextscale.families.var import VAR
from nextscale.official import tokenizer_from_official, transformer_config, transformer_from_official
from nextscale.official_files import State, kinds_in, read_part
from nextscale.published import OFFICIAL_REPOSITORY, OFFICIAL_TOKENIZER, PUBLISHED, Published
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig

logger = logging.getLogger("nextscale")

RANDOM = "random:"
PAIR = r"(.+)\+(.+)@(\d+)"
"""Two models in turn: the name of that of the first scales, of that of the others, and the number of the first."""
TORCH_FILES = (".pth", ".pt", ".ckpt")
BUNDLED = ("demo", "demo-raster")
"""Models in the package: next-scale prediction, and raster order for comparison."""
ABOUT = {
    "demo": "The demo model has learned 64 x 64 frames of 16 video games (Procgen); its classes are the games.",
    "demo-raster": "This model has learned 64 x 64 frames of 16 video games (Procgen), in raster order.",
}
"""What the bundled models generate."""
FRAMES = (
    "Weights for demonstration and research. They have learned frames rendered from Procgen's assets, whose licences "
    "are mixed."
)
TERMS = {
    "demo": FRAMES,
    "demo-raster": FRAMES,
}
"""Licences of the bundled models' weights."""
DEEPEST = 4
"""Folders between a folder that is searched for models and the parts of a model, at most."""
KNOWN = f"expected {', '.join([*BUNDLED, *PUBLISHED])}, a model or run folder, the authors' .pth file, or a hub id"


class StoredModel(Protocol):
    """A model that was found, whose parts are not read yet. Reading raises ValueError in one line."""

    @property
    def place(self) -> str:
        """Where it is stored, for people."""
        ...

    def config(self) -> ModelConfig: ...

    def tokenizer(self) -> Any: ...

    def transformer(self) -> Any: ...


@dataclass(frozen=True)
class FolderModel:
    """A model, run or tokenizer folder in our own format."""

    folder: Path

    @property
    def place(self) -> str:
        return str(self.folder)

    def config(self) -> ModelConfig:
        return load_config(self.folder)

    def tokenizer(self) -> Any:
        return load_tokenizer(self.folder)

    def transformer(self) -> Any:
        return load_transformer(self.folder)


@dataclass(frozen=True)
class OfficialModel:
    """A tokenizer file of the authors, with or without a transformer file; both may be the same file."""

    vae: Path
    var: Path | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    "Settings of sampling that go with these weights."

    @property
    def place(self) -> str:
        return ", ".join(str(path) for path in dict.fromkeys((self.vae, self.var)) if path is not None)

    @cached_property
    def _weights(self) -> State:
        if self.var is None:
            raise ValueError(f"{self.vae}: holds a tokenizer but no transformer; expected a file such as var_d16.pth")
        if "transformer" not in kinds_in(self.var) and self.vae != self.var:
            swapped = "transformer" in kinds_in(self.vae)
            problem = "are the wrong way round" if swapped else "are both tokenizers"
            expected = f"expected vae, such as {OFFICIAL_TOKENIZER}, and var, such as var_d16.pth"
            raise ValueError(f"vae {self.vae} and var {self.var} {problem}; {expected}")
        return read_part(self.var, "transformer")

    def config(self) -> ModelConfig:
        if self.var is None:
            return ModelConfig(kind="tokenizer")
        classes = transformer_config(self._weights, str(self.var)).classes
        names = imagenet_names() if classes == len(imagenet_names()) else ()
        return ModelConfig(class_names=names, **self.defaults)

    def tokenizer(self) -> VQVAE:
        schedule = VQVAEConfig().schedule  # the file has none: it serves every schedule
        if self.var is not None:
            schedule = transformer_config(self._weights, str(self.var)).schedule
        return module_from_state(
            VQVAE, *tokenizer_from_official(read_part(self.vae, "tokenizer"), schedule, str(self.vae))
        )

    def transformer(self) -> VAR:
        return module_from_state(VAR, *transformer_from_official(self._weights, str(self.var)))


@dataclass(frozen=True)
class RandomModel:
    """An official size with random weights, for measuring speed and memory."""

    name: str

    @property
    def place(self) -> str:
        return "random weights"

    def config(self) -> ModelConfig:
        return ModelConfig(class_names=imagenet_names())

    def tokenizer(self) -> VQVAE:
        """The same at every call, as all official sizes of one schedule have the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return VQVAE(VQVAEConfig(scales=transformer_presets()[self.name].scales)).eval()

    def transformer(self) -> VAR:
        model = VAR(transformer_presets()[self.name])
        model.initialise()
        return model.eval()


@dataclass(frozen=True)
class PairModel:
    """Two models in turn: DRAFT+REFINER@SWITCH. Reading raises ValueError where they do not fit."""

    draft: StoredModel
    refiner: StoredModel
    switch: int

    @property
    def place(self) -> str:
        return f"{self.draft.place}; from scale {self.switch + 1} on {self.refiner.place}"

    def config(self) -> ModelConfig:
        return paired_config(self.draft.config(), self.refiner.config())

    def tokenizer(self) -> VQVAE:
        """The draft's, with its decoder."""
        tokenizer = self.draft.tokenizer()
        require_same_tokenizer(tokenizer, self.refiner.tokenizer())
        return tokenizer

    def transformer(self) -> ModelPair:
        self.config()  # raises for kinds that do not fit, before large weights are read
        return ModelPair.of(self.draft.transformer(), self.refiner.transformer(), self.switch)


def in_turn(draft: Any, refiner: Any, switch: int) -> tuple[Any, ModelPair, ModelConfig]:
    """Tokenizer, models and defaults of two pipelines in turn. Raises ValueError where they do not fit."""
    for name in ("device", "precision"):
        one, other = getattr(draft, name), getattr(refiner, name)
        if one != other:
            raise ValueError(f"two models in turn need the same {name}: one has {one}, the other {other}")
    config = paired_config(draft.config, refiner.config)
    require_same_tokenizer(draft.tokenizer, refiner.tokenizer)
    return draft.tokenizer, ModelPair.of(draft.transformer, refiner.transformer, switch), config


def paired_config(draft: ModelConfig, refiner: ModelConfig) -> ModelConfig:
    """The draft's defaults, for two models in turn. Raises ValueError where their kinds or classes do not fit."""
    if not draft.kind == refiner.kind == "var":
        raise ValueError(f"two models in turn are of next-scale prediction; these are {draft.kind} and {refiner.kind}")
    if draft.class_names != refiner.class_names:
        raise ValueError("two models in turn need the same classes; theirs have other names")
    return replace(draft, kind="pair", refine_steps=refiner.refine_steps)


def require_same_tokenizer(one: Any, other: Any) -> None:
    """Raises ValueError for two tokenizers whose tokens differ; their decoders may."""
    if fingerprint(one) != fingerprint(other):
        raise ValueError(
            "two models in turn need the same tokenizer, and theirs differ in their codes or encoders; the same one "
            "stored in fp32 and in bf16 differs, too: convert both with the same --export"
        )


def find_model(model: str | Path) -> StoredModel:
    """The model with a name, path or hub id. Raises ValueError when there is none."""
    text, path = str(model), Path(model)
    if text in BUNDLED:
        with as_file(files("nextscale") / "assets" / text) as folder:
            return FolderModel(folder)
    if text.startswith(RANDOM) and text.removeprefix(RANDOM) in transformer_presets():
        return RandomModel(text.removeprefix(RANDOM))
    if path.is_dir() and text:
        if line := unfinished(path):
            logger.info(line)
        return FolderModel(path)
    if path.suffix in TORCH_FILES and path.is_file():
        return official_file(path)
    if path.exists() and text:
        raise ValueError(f"model {model}: is a file; {KNOWN}")
    if text in PUBLISHED:
        return published_model(text, PUBLISHED[text])
    if pair := re.fullmatch(PAIR, text):
        return PairModel(find_model(pair[1]), find_model(pair[2]), int(pair[3]))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        raise ValueError(f"model {text!r} is not known; {KNOWN}")
    from huggingface_hub import snapshot_download

    try:
        return FolderModel(Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors"])))
    except Exception as error:  # the hub client raises many kinds: offline, not found, gated
        raise ValueError(f"model {model}: no such folder, and the hub does not give it ({one_line(error)})") from error


def models_in(folder: Path) -> dict[str, str]:
    """Models in a folder and a few below it that generate, each under its path from there.

    They are model and run folders, and published transformer files. Raises ValueError where there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    known = {Path(file).name for one in PUBLISHED.values() if not one.switch for file in one.files}
    found: dict[str, str] = {}
    for depth in range(DEEPEST + 1):
        for part in sorted(folder.glob("*/" * depth + f"transformer/{CONFIG}")):
            place = part.parent.parent
            place = place.parent if place.name == "model" and place != folder else place  # a run folder
            with suppress(ValueError):  # a run that has exported no model yet
                load_config(place)
                found[str(place.relative_to(folder))] = str(place)
        for file in sorted(folder.glob("*/" * depth + "*.pth")):
            if file.name in known:
                found[str(file.relative_to(folder))] = str(file)
    if not found:
        raise ValueError(f"{folder}: holds no model that generates, and no folder below it does")
    return found


def find_tokenizer(model: str | Path) -> VQVAE:
    """The tokenizer of a model. Raises ValueError where there is none, as in models of pixels."""
    tokenizer = find_model(model).tokenizer()
    if not isinstance(tokenizer, VQVAE):
        raise ValueError(f"model {model}: makes pixels and has no tokenizer")
    return tokenizer


def official_file(path: Path) -> OfficialModel:
    """The model of one of the authors' files: both parts, a tokenizer alone, or a transformer.

    A transformer's tokenizer is found beside it. Raises ValueError where it is missing or there are several.
    """
    kinds = kinds_in(path)
    if "tokenizer" in kinds:
        return OfficialModel(path, path if "transformer" in kinds else None)
    beside = path.with_name(OFFICIAL_TOKENIZER)
    others = [beside] if beside.is_file() else sorted(path.parent.glob("vae*.pth"))
    if len(others) > 1:
        names = " and ".join(other.name for other in others)
        raise ValueError(
            f"{path}: {len(others)} tokenizers are beside it ({names}); leave the one it was trained with in the folder"
        )
    if not others:
        raise ValueError(f"{path}: its tokenizer is missing; put {OFFICIAL_TOKENIZER} into the same folder")
    return OfficialModel(others[0], path)


def published_model(name: str, published: Published) -> StoredModel:
    """Weights from the hub's cache, or from the hub; says whose they are. Raises ValueError."""
    vae = published_file(OFFICIAL_REPOSITORY, OFFICIAL_TOKENIZER, name)
    var = [published_file(published.repository, file, name) for file in published.files]
    about = f"{published.about}; weights of {published.repository}, licence {published.licence}"
    logger.info("%s: %s", name, about)
    first, *second = [OfficialModel(vae, path, published.defaults) for path in var] or [OfficialModel(vae)]
    return PairModel(first, *second, switch=published.switch) if published.switch else first


def published_file(repository: str, file: str, model: str) -> Path:
    """A file of a hub repository, from the cache if it is there. Raises ValueError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the hub client raises many kinds
        published = PUBLISHED[model]
        names = [path.rpartition("/")[2] for path in (OFFICIAL_TOKENIZER, *published.files)]
        given = "+".join(f"FOLDER/{path}" for path in names[1:] or names)
        given += f"@{published.switch}" if published.switch else ""
        raise ValueError(
            f"model {model}: the hub does not give {file} of {repository} ({one_line(error)}); "
            f"put {' and '.join(names)} into one folder and give --model {given}"
        ) from error
