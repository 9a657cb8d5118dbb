"""Requests become jobs: names are looked up and settings checked before anything is queued."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nextscale.classes import find_class
from nextscale.editing.config import EditConfig
from nextscale.pipeline import AUTO
from nextscale.server.jobs import Edit, Job, ModelCard
from nextscale.server.problems import Refused
from nextscale.server.schema import EditRequest, GenerationRequest, ImageRequest, ModelData
from nextscale.server.settings import ServerSettings
from nextscale.server.uploads import transparent_part, uploaded_image, uploaded_mask

NOBODY = "none"
"""As a prompt: no class."""


def generation_jobs(wanted: GenerationRequest, card: ModelCard, settings: ServerSettings) -> list[Job]:
    """One job per image. Raises ValueError, and Refused for another model."""
    check(wanted, card, settings)
    label = class_id(wanted.prompt, card)
    return jobs_of(wanted, card, label)


async def edit_jobs(wanted: EditRequest, card: ModelCard, settings: ServerSettings) -> list[Job]:
    """One job per image. Raises ValueError, and Refused for another model."""
    check(wanted, card, settings)
    if not card.edits:
        raise ValueError(f"the model is {card.title}, which cannot edit")
    data = await wanted.image.read()
    image = uploaded_image(data, settings.max_pixels)
    size = (image.shape[0], image.shape[1])
    if wanted.mask is not None:
        mask = uploaded_mask(await wanted.mask.read(), size, settings.max_pixels)
    else:
        mask = transparent_part(data, settings.max_pixels)
    if mask is None:
        if not wanted.keep_scales:
            raise ValueError(
                "mask: is missing, and the image has no transparent part; give either, or keep_scales to remake "
                "all of the image on its own composition"
            )
        mask = np.ones(size, dtype=np.float32)
    if not mask.any():
        raise ValueError("mask: keeps everything, so that nothing would change; white or transparent is made anew")
    if wanted.keep_scales > card.scales:
        raise ValueError(f"keep_scales: the model has {card.scales} scales, got {wanted.keep_scales}")
    auto = wanted.prompt.strip().lower() == AUTO and wanted.prompt.strip() not in card.class_names
    label = AUTO if auto else class_id(wanted.prompt, card)
    config = EditConfig(keep_scales=wanted.keep_scales, feather=wanted.feather)
    return jobs_of(wanted, card, label, Edit(image, mask, config))


def jobs_of(wanted: ImageRequest, card: ModelCard, label: int | str | None, edit: Edit | None = None) -> list[Job]:
    """A job per seed."""
    given = {"guidance": wanted.guidance, "top_k": wanted.top_k, "top_p": wanted.top_p}
    sampling = replace(card.defaults, **{name: value for name, value in given.items() if value is not None})
    shown = previews(wanted, card.scales) if wanted.stream else frozenset()
    soften = label == AUTO and wanted.guidance is None
    return [
        Job(seed=seed, label=label, sampling=sampling, edit=edit, soften=soften, previews=shown)
        for seed in wanted.seeds()
    ]


def check(wanted: ImageRequest, card: ModelCard, settings: ServerSettings) -> None:
    """What holds of every request. Raises ValueError, and Refused for another model."""
    if wanted.model not in (None, card.name, settings.model):
        raise no_such_model(wanted.model, card)
    height, width = card.image_size
    if wanted.size not in (None, "auto", f"{width}x{height}") and not isinstance(wanted, EditRequest):
        raise ValueError(f"size: the model makes images of {width}x{height}; leave it out, or say auto")
    if wanted.output_format == "png" and wanted.output_compression not in (None, 100):
        raise ValueError("output_compression: png loses nothing; ask for output_format jpeg or webp")
    most = min(settings.max_images, settings.queue)
    if wanted.n > most:
        raise ValueError(f"n: at most {most} images a request, got {wanted.n}")
    if wanted.stream and wanted.n > 1:
        raise ValueError(f"n: a stream shows one image, got {wanted.n}; ask for each by itself")


def no_such_model(name: str, card: ModelCard) -> Refused:
    """The refusal of a model that is not served."""
    return Refused(404, f"model: {name!r} is not served here; {card.name} is", param="model", code="model_not_found")


def class_id(prompt: str, card: ModelCard) -> int | None:
    """A class by name or id. Raises ValueError with near matches."""
    name = prompt.strip()
    if name in card.class_names:
        return card.class_names.index(name)
    if name.lower() == NOBODY:
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
    """As GET /v1/models tells it."""
    height, width = card.image_size
    return ModelData(
        id=card.name, title=card.title, size=f"{width}x{height}", scales=card.scales, classes=list(card.class_names),
        guidance=card.defaults.guidance, top_k=card.defaults.top_k, top_p=card.defaults.top_p,
        precision=card.precision, parameters=card.parameters,
    )  # fmt: skip


def named_class(label: int | None, card: ModelCard) -> str | None:
    """A class's name; None for no class."""
    return None if label is None else card.class_names[label]
