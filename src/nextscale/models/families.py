"""The kinds of models by name."""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.models.dit import DiT, DiTConfig
from nextscale.models.maskgit import MaskGIT, MaskGITConfig
from nextscale.models.raster import Raster, RasterConfig
from nextscale.models.rq import RQConfig, RQTransformer
from nextscale.models.transformer import TransformerConfig
from nextscale.models.var import VAR, VARConfig

Model = VAR | Raster | RQTransformer | MaskGIT | DiT


@dataclass(frozen=True)
class Family:
    """One kind of model: its classes, and what it is called."""

    kind: str
    config: type[TransformerConfig]
    model: type[Model]
    title: str


FAMILIES = {
    "var": Family("var", VARConfig, VAR, "next-scale prediction (VAR)"),
    "raster": Family("raster", RasterConfig, Raster, "raster-order AR (VQGAN)"),
    "rq": Family("rq", RQConfig, RQTransformer, "residual-quantised AR (RQ-Transformer)"),
    "maskgit": Family("maskgit", MaskGITConfig, MaskGIT, "masked prediction (MaskGIT)"),
    "dit": Family("dit", DiTConfig, DiT, "diffusion (DiT)"),
}


def family(kind: str) -> Family:
    """Raises ValueError for an unknown kind."""
    if kind not in FAMILIES:
        raise ValueError(f"kind {kind!r} is not known; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def kind_of(config: TransformerConfig) -> Family:
    """The family of an architecture."""
    return next(one for one in FAMILIES.values() if type(config) is one.config)
