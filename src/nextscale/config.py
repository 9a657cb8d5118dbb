"""Configs are frozen dataclasses: to and from plain dictionaries and JSON, checks of settings, those that change."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import types
from collections.abc import Callable, Iterable
from operator import index
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
PRECISIONS = ("fp32", "bf16", "fp16")
"""Names of the types that weights are stored and computed in."""
STORED = (*PRECISIONS, "int8")
"""Names of the types that weights are stored in."""
logger = logging.getLogger("nextscale")

LEFT_OUT = "left out where it is None"
"""Mark in the metadata of a field: files of configs without it stay as they were before there was such a field."""
TOP_SEED = 2**63 - 1
"""The largest seed that torch's generators take."""


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain dictionaries, as JSON gives them back: tuples become lists."""

    def plain(value: Any) -> Any:
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return str(value)
        found = {field.name: (getattr(value, field.name), field.metadata) for field in dataclasses.fields(value)}
        return {name: one for name, (one, about) in found.items() if one is not None or LEFT_OUT not in about}

    return json.loads(json.dumps(config, default=plain))


def essential(config: Any) -> dict[str, Any]:
    """The settings that determine a config: those that are no defaults and do not follow from the others."""
    values = to_dict(config)
    for field in dataclasses.fields(config):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            continue
        try:
            if dataclasses.replace(config, **{field.name: default}) == config:
                values.pop(field.name, None)
        except ValueError:
            pass  # the default is not valid with the other settings
    return values


def from_dict(cls: type[Config], values: dict[str, Any], *, where: str = "config") -> Config:
    """A config from a dictionary. `where` says where that came from.

    Raises ValueError that names the first unknown or missing key, or the first value of a wrong type.
    """
    assert dataclasses.is_dataclass(cls)
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a mapping of settings, got {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(fields))}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"{where}: setting {missing[0]!r} is missing")
    hints = get_type_hints(cls)
    built = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def with_settings(config: Config, values: dict[str, Any]) -> Config:
    """A config with some settings replaced by `values`, where these are not None.

    Raises ValueError for a value that is not the kind of number its setting needs, and for what the config refuses.
    """
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    hints = get_type_hints(type(config))
    changes = {name: _number(hints[name], value, name) for name, value in values.items() if value is not None}
    return dataclasses.replace(config, **changes)


def _number(hint: Any, value: Any, name: str) -> Any:
    """A value as the Python int or float that `hint` asks for, also from NumPy's types; for other hints unchanged."""
    if hint in (int, float):
        try:
            return index(value) if hint is int else hint(value - 0)
        except TypeError as error:
            kind = "a whole number" if hint is int else "a number"
            raise ValueError(f"{name} must be {kind}, got {value!r}") from error
    return value


def require_known(names: Iterable[str], known: tuple[str, ...], *, parameters: tuple[str, ...] = ()) -> None:
    """Raises ValueError naming the first of `names` that is not known, and the settings or parameters like it."""
    for name in names:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, (*known, *parameters), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join((*known, *parameters))}"
            raise ValueError(f"setting {name!r} is not known; {hint}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    """JSON's lists and mappings as the tuples and dataclasses that `hint` asks for. Raises ValueError for others."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        for option in get_args(hint):
            if get_origin(option) is tuple and isinstance(value, (list, tuple)):
                return _convert(option, value, where)
            if dataclasses.is_dataclass(option) and isinstance(value, dict):
                return _convert(option, value, where)
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(hint, value, where=where)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_convert(inner[0], item, where) for item in value)
        return tuple(_convert(kind, item, where) for kind, item in zip(inner, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def half_cosine(start: float, end: float, share: float) -> float:
    """A number that goes from `start` to `end` along half a cosine while `share` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def require_at_least(config: Any, least: int, *names: str) -> None:
    """Raises ValueError naming the first of these settings that is below `least` or not finite."""
    _require(config, names, lambda value: least <= value < math.inf, f"at least {least}")


def require_above_zero(config: Any, *names: str) -> None:
    """Raises ValueError naming the first of these settings that is not a finite number above 0."""
    _require(config, names, lambda value: 0 < value < math.inf, "a number above 0")


def require_share(config: Any, *names: str) -> None:
    """Raises ValueError naming the first of these settings that is below 0 or not below 1."""
    _require(config, names, lambda value: 0 <= value < 1, "at least 0 and below 1")


def _require(config: Any, names: Iterable[str], holds: Callable[[Any], bool], words: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{name} must be {words}, got {value}")


def require_seed(seed: int, *, count: int = 1, name: str = "seed") -> None:
    """Raises ValueError unless torch's generators take `seed` and the `count` - 1 seeds that follow it."""
    if not 0 <= seed <= TOP_SEED:
        raise ValueError(f"{name} must be from 0 to {TOP_SEED}, got {seed}")
    if seed + count - 1 > TOP_SEED:
        raise ValueError(f"{name} {seed} leaves no seeds for {count} images; the largest is {TOP_SEED}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError naming the file where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a log, one per line; none where there is no file.

    A crash or a full disk may cut off the last line. Lines that hold no whole object are passed over with a warning.
    Raises ValueError for a file that cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line.decode("utf-8")) if line.strip() else {}
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            logger.warning("%s: line %d is damaged and is passed over", path, number)
        elif values:
            found.append(values)
    return found


def named(presets: dict, name: str):
    """The preset of that name. Raises ValueError listing the names."""
    if name not in presets:
        raise ValueError(f"preset {name!r} is not known; expected one of {', '.join(presets)}")
    return presets[name]
