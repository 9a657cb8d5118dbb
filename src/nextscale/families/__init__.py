"""Families of models, and the one registry that knows them by name.

Imports no torch: the families of the package are imported when they are asked for. Any other joins with `register`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextscale.families.config import ARCHITECTURES

if TYPE_CHECKING:
    from nextscale.families.base import Family

WITHOUT_TRAINING = ("pair",)
"""Families of the package whose models are made of finished ones."""
_registered: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family, or replace the one of the same kind; returns it."""
    _registered[family.kind] = family
    return family


def family(kind: str) -> Family:
    """The family of a kind. Raises ValueError for an unknown one."""
    if kind not in _registered and kind in (*ARCHITECTURES, *WITHOUT_TRAINING):
        register(import_module(f"nextscale.families.{kind.replace('-', '_')}").FAMILY)
    if kind not in _registered:
        raise ValueError(f"kind {kind!r} is not known; expected one of {', '.join(kinds())}")
    return _registered[kind]


def kinds() -> tuple[str, ...]:
    """Names of all families."""
    return tuple(dict.fromkeys([*ARCHITECTURES, *WITHOUT_TRAINING, *_registered]))


def family_of(config: Any) -> Family:
    """The family of an architecture. Raises ValueError where there is none."""
    for one in map(family, kinds()):
        if type(config) is one.config:
            return one
    raise ValueError(f"{type(config).__name__} is the architecture of no registered family")
