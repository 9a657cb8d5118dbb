"""Frozen dataclass configs to and from plain dictionaries, JSON and YAML-friendly."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import types
from operator import index
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
PRECISIONS = ("fp32", "bf16", "fp16")
"""Types that weights are stored and computed in, by name."""
logger = logging.getLogger("nextscale")

TOP_SEED = 2**63 - 1
"""Largest seed: what torch's generators take."""


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionary of a config; tuples become lists so that JSON round-trips."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def essential(config: Any) -> dict[str, Any]:
    """The settings that make a config: those that neither are defaults nor follow from the others."""
    values = to_dict(config)
    for field in dataclasses.fields(config):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            continue
        try:
            if dataclasses.replace(config, **{field.name: default}) == config:
                del values[field.name]
        except ValueError:
            pass  # the others do not go with the default
    return values


def from_dict(cls: type[Config], values: dict[str, Any], *, where: str = "config") -> Config:
    """Build a config from a dictionary, refusing unknown and missing keys by name.

    Raises ValueError that names the key, the class's known keys and where the values came from.
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
    """A config with settings given by name put over its own; None keeps them.

    Raises ValueError for a setting that is not of its kind of number, and whatever the config itself refuses.
    """
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    hints = get_type_hints(type(config))
    given = {name: _number(hints[name], value, name) for name, value in values.items() if value is not None}
    return dataclasses.replace(config, **given)


def _number(hint: Any, value: Any, name: str) -> Any:
    """A value as the plain number that `hint` asks for, from NumPy's kinds too; others as they are."""
    if hint in (int, float):
        try:
            return index(value) if hint is int else hint(value - 0)
        except TypeError as error:
            kind = "a whole number" if hint is int else "a number"
            raise ValueError(f"{name} must be {kind}, got {value!r}") from error
    return value


def require_known(given: Any, known: tuple[str, ...], *, parameters: tuple[str, ...] = ()) -> None:
    """Raises ValueError naming the first setting that is not known, and those, or parameters, that it is near."""
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, (*known, *parameters), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join((*known, *parameters))}"
            raise ValueError(f"setting {name!r} is not known; {hint}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Turn JSON's lists and mappings into the tuples and dataclasses that `hint` asks for."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        # Prefer the container among the alternatives: `tuple[int, ...] | None`.
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


def require_at_least(config: Any, least: int, *names: str) -> None:
    """Raises ValueError naming the first of these settings that is below `least` or no finite number."""
    for name in names:
        value = getattr(config, name)
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_above_zero(config: Any, *names: str) -> None:
    """Raises ValueError naming the first of these settings that is not a finite number above 0."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number above 0, got {value}")


def require_share(config: Any, *names: str) -> None:
    """Raises ValueError naming the first of these settings that is not a share: at least 0 and below 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def require_seed(seed: int, *, count: int = 1, name: str = "seed") -> None:
    """Raises ValueError unless `seed` and the `count` - 1 that follow it are seeds of torch's generators."""
    if not 0 <= seed <= TOP_SEED:
        raise ValueError(f"{name} must be from 0 to {TOP_SEED}, got {seed}")
    if seed + count - 1 > TOP_SEED:
        raise ValueError(f"{name} {seed} leaves no seeds for {count} images; the largest is {TOP_SEED}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ValueError naming the file when it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a log, one a line; none where there is no file.

    A crash or a full disk cuts off the last line: what is not a whole object is passed over, and a line of the log
    says so. Raises ValueError for a file that cannot be read.
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
