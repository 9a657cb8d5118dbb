"""Requests and answers of the Images API: OpenAI's, and our own settings."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

TOP_SEED = 2**53 - 1
"""Largest seed: all readers of JSON agree on integers up to it."""
NAMES = ("prompt", "model", "user", "safety_identifier")
"""Texts whose case counts."""

MOST_SCALES = 64
"""Bound on what is said of scales; a model has fewer."""
UNSUPPORTED = "unsupported_value"
NOT_USED = "Taken for the sake of clients; not used."


def listed(value: object) -> object:
    """Takes numbers with commas apart: forms send lists as text, which arrives as the only element of a list."""
    only = value[0] if isinstance(value, list) and len(value) == 1 else value
    return only.split(",", MOST_SCALES) if isinstance(only, str) else value


def only_b64_json(value: object) -> object:
    """Refuses links, which would have to be kept and served."""
    if value == "url":
        raise PydanticCustomError(UNSUPPORTED, "images are sent as b64_json only; leave it out, or say b64_json")
    return value


class ImageRequest(BaseModel):
    """What generations and edits share."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(max_length=1000, description="Class name or id; none for no class.")]
    model: Annotated[str | None, Field(max_length=300, description="As GET /v1/models names it.")] = None
    n: Annotated[int, Field(ge=1, le=1000, description="Images; image i has seed + i.")] = 1
    size: Annotated[str | None, Field(max_length=20, description="auto, or the model's WIDTHxHEIGHT.")] = None
    seed: Annotated[int | None, Field(ge=0, le=TOP_SEED, description="Seed of the first image; none draws one.")] = None
    guidance: Annotated[float | None, Field(gt=-1e4, lt=1e4, allow_inf_nan=False)] = None
    top_k: Annotated[int | None, Field(ge=0, le=2**31)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    guided_scales: Annotated[
        int | None, Field(ge=0, le=MOST_SCALES, description="Scales that are guided, from the first; 0 is all.")
    ] = None
    temperatures: Annotated[
        list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None,
        Field(max_length=MOST_SCALES, description="Of each scale, such as 1.1,1,0.9; the last holds for later ones."),
        BeforeValidator(listed),
    ] = None
    spatial_guidance: Annotated[
        list[Annotated[float, Field(gt=-1e4, lt=1e4, allow_inf_nan=False)]] | None,
        Field(max_length=MOST_SCALES, description="Away from the coarser scale, such as 0.2; or of each scale."),
        BeforeValidator(listed),
    ] = None
    refine_steps: Annotated[
        int | None, Field(ge=1, le=MOST_SCALES, description="Passes that draw the last map; 1 draws it at once.")
    ] = None
    truncation: Annotated[
        float | None,
        Field(ge=0, lt=1e4, allow_inf_nan=False, description="Of models of one step: below 1, less variety."),
    ] = None
    response_format: Annotated[Literal["b64_json"] | None, BeforeValidator(only_b64_json)] = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[
        int | None, Field(ge=0, le=100, description="Quality of jpeg and webp in percent; png loses nothing.")
    ] = None
    stream: bool = False
    partial_images: Annotated[
        int | None, Field(ge=0, le=MOST_SCALES, description="Previews of a stream; none sends every scale.")
    ] = None
    background: Literal["auto", "opaque"] | None = None
    user: Annotated[str | None, Field(max_length=300, description=NOT_USED)] = None
    safety_identifier: Annotated[str | None, Field(max_length=300, description=NOT_USED)] = None
    quality: Annotated[str | None, Field(max_length=20, description=NOT_USED)] = None
    complexity: Annotated[str | None, Field(max_length=20, description=NOT_USED)] = None
    moderation: Annotated[Literal["auto", "low"] | None, Field(description=NOT_USED)] = None

    @model_validator(mode="before")
    @classmethod
    def as_clients_mean_it(cls, values: object) -> object:
        """Leaves out what is null, and puts words for settings into lower case."""
        if not isinstance(values, dict):
            return values
        return {
            name: value.strip().lower() if isinstance(value, str) and name not in NAMES else value
            for name, value in values.items()
            if value is not None
        }

    def seeds(self) -> list[int]:
        """One per image."""
        first = secrets.randbelow(2**31) if self.seed is None else self.seed
        return [first + number for number in range(self.n)]


class GenerationRequest(ImageRequest):
    """Body of a generation."""

    style: Annotated[Literal["auto", "vivid", "natural"] | None, Field(description=NOT_USED)] = None


class EditRequest(ImageRequest):
    """Form of an edit: without a mask the image's transparent part is regenerated."""

    image: UploadFile
    mask: UploadFile | None = None
    prompt: Annotated[
        str, Field(max_length=1000, description="Class name or id, none, or auto: what the kept part looks like.")
    ] = "auto"
    keep_scales: Annotated[
        int, Field(ge=0, le=MOST_SCALES, description="First scales taken over from the original.")
    ] = 0
    feather: Annotated[int, Field(ge=0, le=1024, description="Pixels over which the mask's edge fades.")] = 4
    input_fidelity: Annotated[Literal["auto", "low", "high"] | None, Field(description=NOT_USED)] = None


class ImageData(BaseModel):
    """An image of an answer."""

    b64_json: str
    seed: int
    label: str | None = Field(description="The class's name; null for none.")


class ImagesAnswer(BaseModel):
    """Answer to a request that does not stream."""

    created: int
    data: list[ImageData]
    size: str
    output_format: str


class ModelData(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "nextscale"
    title: str
    size: str
    scales: int
    classes: list[str]
    guidance: float
    top_k: int
    top_p: float
    truncation: float
    precision: str
    parameters: int


class ModelList(BaseModel):
    """Models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelData]


class Problem(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ProblemAnswer(BaseModel):
    """Answer to a request that cannot be served."""

    error: Problem
