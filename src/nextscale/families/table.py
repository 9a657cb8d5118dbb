"""The kinds of models by name."""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.families.config import ARCHITECTURES, TITLES, TransformerConfig, architecture
from nextscale.families.dit import DiT
from nextscale.families.maskgit import MaskGIT
from nextscale.families.raster import Raster
from nextscale.families.rq import RQTransformer
from nextscale.families.var import VAR

Model = VAR | Raster | RQTransformer | MaskGIT | DiT


@dataclass(frozen=True)
class Family:
    """One kind of model: its classes, and what it is called."""

    kind: str
    config: type[TransformerConfig]
    model: type[Model]
    title: str


MODELS: dict[str, type[Model]] = {"var": VAR, "raster": Raster, "rq": RQTransformer, "maskgit": MaskGIT, "dit": DiT}
FAMILIES = {kind: Family(kind, ARCHITECTURES[kind], model, TITLES[kind]) for kind, model in MODELS.items()}


def family(kind: str) -> Family:
    """Raises ValueError for an unknown kind."""
    architecture(kind)
    return FAMILIES[kind]


def kind_of(config: TransformerConfig) -> Family:
    """The family of an architecture."""
    return next(one for one in FAMILIES.values() if type(config) is one.config)
