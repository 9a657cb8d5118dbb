"""Jobs: one image to make each. The HTTP side makes them of requests, a backend makes their images.

Names are looked up and settings checked before anything is queued. Shapes: (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nextscale.classes import find_class
from nextscale.config import with_settings
from nextscale.editing.config import EditConfig
from nextscale.pipeline import AUTO
from nextscale.pyramid import Size
from nextscale.sampling.passes import require_refinable
from nextscale.sampling.step import SAMPLING_SETTINGS, SamplingConfig
from nextscale.server.forms import transparent_part, uploaded_image, uploaded_mask
from nextscale.server.problems import Refused
from nextscale.server.schema import EditRequest, GenerationRequest, ImageRequest, ModelData
from nextscale.server.settings import ServerSettings

NO_CLASS = "none"
"""As a prompt: no class."""
SAMPLING = tuple(name for name in SAMPLING_SETTINGS if name in ImageRequest.model_fields)
"""Settings of drawing that a request may have."""
DEFAULTS = tuple(name for name in SAMPLING if name in ModelData.model_fields)
"""Those whose defaults are the model's own."""


@dataclass(frozen=True, eq=False)
class Edit:
    """An image and the part of it that is made anew."""

    image: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) float32, 1 where it is regenerated
    config: EditConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One image to make."""

    seed: int
    label: int | str | None
    "Class id, None for no class, or `auto` (edits)."
    sampling: SamplingConfig
    edit: Edit | None = None
    soften: bool = False
    "Whether guidance is multiplied by the squared share of the image that an edit makes anew."
    previews: frozenset[int] = frozenset()
    "Scales after which the unfinished image is wanted."

    @property
    def key(self) -> object:
        """Jobs of equal keys are worked on together. Edits are alone: their hooks let an image depend on its batch."""
        return self.sampling if self.edit is None else self


@dataclass(frozen=True, eq=False)
class Stage:
    """The image of a job after a scale; after the last one it is the result."""

    scale: int
    image: np.ndarray  # (H, W, 3) uint8
    final: bool
    label: int | None
    together: int
    "Images that were made in one batch."


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the HTTP side knows of the model."""

    name: str
    title: str
    class_names: tuple[str, ...]
    image_size: Size
    scales: int
    "Steps that can be shown; 0 for kinds of models without scales."
    defaults: SamplingConfig
    precision: str
    parameters: int
    edits: bool = True
    refinable: bool = False
    "Whether its last map may be drawn in several passes."
    guides: bool = True
    "Whether guidance steers its images."
    truncates: bool = False
    "Whether it is of one step and has truncation."

    @property
    def size(self) -> str:
        """WIDTHxHEIGHT."""
        height, width = self.image_size
        return f"{width}x{height}"

    def class_name(self, label: int | None) -> str | None:
        """A class's name; None for no class."""
        return None if label is None else self.class_names[label]

    def refuse(self, model: str) -> Refused:
        """The answer to a request for another model."""
        line = f"model: {model!r} is not served here; {self.name} is"
        return Refused(404, line, param="model", code="model_not_found")


class Backend(Protocol):
    """Where images are made."""

    async def card(self) -> ModelCard: ...

    def make(self, job: Job) -> AsyncIterator[Stage]:
        """The stages that the job asks for, the final one last."""
        ...


def generation_jobs(wanted: GenerationRequest, card: ModelCard, settings: ServerSettings) -> list[Job]:
    """One job per image. Raises ValueError, and Refused for another model."""
    check(wanted, card, settings)
    return jobs_of(wanted, card, class_id(wanted.prompt, card))


async def edit_jobs(wanted: EditRequest, card: ModelCard, settings: ServerSettings) -> list[Job]:
    """One job per image. Raises ValueError, and Refused for another model."""
    check(wanted, card, settings)
    if not card.edits:
        raise ValueError(f"the model is {card.title}, which cannot edit")
    data = await wanted.image.read()
    image = uploaded_image(data, settings.max_pixels)
    mask = await mask_of(wanted, data, (image.shape[0], image.shape[1]), settings.max_pixels)
    if wanted.keep_scales > card.scales:
        raise ValueError(f"keep_scales: the model has {card.scales} scales, got {wanted.keep_scales}")
    auto = wanted.prompt.strip().lower() == AUTO and wanted.prompt.strip() not in card.class_names
    label = AUTO if auto else class_id(wanted.prompt, card)
    config = EditConfig(keep_scales=wanted.keep_scales, feather=wanted.feather)
    return jobs_of(wanted, card, label, Edit(image, mask, config))


async def mask_of(wanted: EditRequest, image: bytes, size: Size, most_pixels: int) -> np.ndarray:
    """(H, W) float32: the mask, or what is transparent, or with `keep_scales` everything. Raises ValueError."""
    if wanted.mask is not None:
        mask = uploaded_mask(await wanted.mask.read(), size, most_pixels)
    else:
        mask = transparent_part(image, most_pixels)
    if mask is None and not wanted.keep_scales:
        raise ValueError(
            "mask: is missing, and the image has no transparent part; give either, or keep_scales to remake "
            "all of the image on its own composition"
        )
    if mask is None:
        return np.ones(size, dtype=np.float32)
    if not mask.any():
        raise ValueError("mask: keeps everything, so that nothing would change; white or transparent is made anew")
    return mask


def jobs_of(wanted: ImageRequest, card: ModelCard, label: int | str | None, edit: Edit | None = None) -> list[Job]:
    """A job per seed."""
    sampling = with_settings(card.defaults, {name: getattr(wanted, name) for name in SAMPLING})
    sampling.require_scales(card.scales)
    require_refinable(sampling, card)
    sampling.require_dials(card.title, guides=card.guides, truncates=card.truncates)
    shown = previews(wanted, card.scales) if wanted.stream else frozenset()
    soften = label == AUTO and wanted.guidance is None
    return [
        Job(seed=seed, label=label, sampling=sampling, edit=edit, soften=soften, previews=shown)
        for seed in wanted.seeds()
    ]


def check(wanted: ImageRequest, card: ModelCard, settings: ServerSettings) -> None:
    """Raises ValueError for settings that this server does not take, and Refused for another model."""
    if wanted.model not in (None, card.name, settings.model):
        raise card.refuse(wanted.model)
    if wanted.size not in (None, "auto", card.size) and not isinstance(wanted, EditRequest):
        raise ValueError(f"size: the model makes images of {card.size}; leave it out, or say auto")
    if wanted.output_format == "png" and wanted.output_compression not in (None, 100):
        raise ValueError("output_compression: png loses nothing; ask for output_format jpeg or webp")
    most = min(settings.max_images, settings.queue)
    if wanted.n > most:
        raise ValueError(f"n: at most {most} images a request, got {wanted.n}")
    if wanted.stream and wanted.n > 1:
        raise ValueError(f"n: a stream shows one image, got {wanted.n}; ask for each by itself")


def class_id(prompt: str, card: ModelCard) -> int | None:
    """A class by name or id. Raises ValueError with near matches."""
    name = prompt.strip()
    if name in card.class_names:
        return card.class_names.index(name)
    if name.lower() == NO_CLASS:
        return None
    if name.isdecimal() and name.isascii():
        if len(name) > 9 or int(name) >= len(card.class_names):
            raise ValueError(f"prompt: class {name[:20]} does not exist; ids go from 0 to {len(card.class_names) - 1}")
        return int(name)
    try:
        return find_class(name, card.class_names)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from error


def previews(wanted: ImageRequest, scales: int) -> frozenset[int]:
    """Scales before the last to show: all, or as many as are wanted, evenly spread."""
    before = max(0, scales - 1)
    count = before if wanted.partial_images is None else min(wanted.partial_images, before)
    return frozenset(((index + 1) * before) // count - 1 for index in range(count))


def model_data(card: ModelCard) -> ModelData:
    """The model as GET /v1/models describes it."""
    same = {name: getattr(card, name) for name in ("title", "size", "scales", "precision", "parameters")}
    same |= {name: getattr(card.defaults, name) for name in DEFAULTS}
    return ModelData(id=card.name, classes=list(card.class_names), **same)
