"""Config dataclasses as flat flags: preset, then --config file, then flags."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter, Token

from nextscale.config import essential, from_dict

Config = TypeVar("Config")
Command = TypeVar("Command", bound=Callable[..., None])
TITLES = (
    "Main settings", "Sampling", "More settings", "Model", "Objective", "Adversary", "Disturbance", "Optimiser",
    "Machine", "Files",
)  # fmt: skip
PANELS = {title: Group(title, sort_key=number) for number, title in enumerate(TITLES, start=1)}
"""Panels of a command's help, in order."""
COMMON = {
    "Sampling": (
        "guidance", "guided_scales", "spatial_guidance", "top_k", "top_p", "temperature", "temperatures",
        "refine_steps", "truncation", "smooth", "candidates", "judge",
    ),
    "Machine": ("precision", "device", "batch_size", "compile", "graphs", "parallel", "accumulate", "checkpointing"),
    "Files": ("config", "json", "prompts", "report", "plot", "npz", "statistics"),
}  # fmt: skip
"""Settings that many commands have, by panel."""

REPEATED = ("prompt",)
"""Settings of several texts, in which commas mean nothing: their flags are given several times."""


def whole_number(hint: type, tokens: Sequence[Token]) -> int:
    """An integer, also as 1e6; 1.5 is refused, not rounded. Raises ValueError."""
    text = tokens[0].value
    try:
        value = float(text)
        exact = int(text) if "." not in text and "e" not in text.lower() else int(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is not a whole number") from error
    if exact != value and abs(value) < 2**53:
        raise ValueError(f"{text!r} is not a whole number")
    return exact


def real_number(hint: type, tokens: Sequence[Token]) -> float:
    """A number. Raises ValueError."""
    try:
        return float(tokens[0].value)
    except ValueError as error:
        raise ValueError(f"{tokens[0].value!r} is not a number") from error


CONVERTERS = {int: whole_number, float: real_number}
METAVARS = {bool: None, int: "N", float: "X", str: "TEXT", tuple: "A,B,..."}
FILE: dict[str, Any] = {"show_default": False, "group": PANELS["Files"], "metavar": "FILE"}
ConfigFile = Annotated[str, Parameter(help="YAML or JSON file with settings; flags override it.", **FILE)]
Json = Annotated[str, Parameter(help="File for the results.", **FILE)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultsFile:
    """A file for what a command found or made."""

    json: str = ""
    "File for the results."


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a config: its place in nested dataclasses, its type, help and default."""

    path: tuple[str, ...]
    hint: Any
    help: str
    default: Any

    @property
    def name(self) -> str:
        return self.path[-1]


def settings(cls: type, prefix: tuple[str, ...] = ()) -> Iterator[Setting]:
    """All settings of a config dataclass, those of nested dataclasses (groups) too."""
    from docstring_parser import parse_from_object

    texts = {
        param.arg_name: param.description or ""
        for base in reversed(cls.__mro__[:-1])
        for param in parse_from_object(base).params
    }
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(hints[field.name]):
            chosen = essential(default) if dataclasses.is_dataclass(default) else {}
            for setting in settings(hints[field.name], (*prefix, field.name)):
                value = getattr(default, setting.name) if setting.name in chosen else setting.default
                yield dataclasses.replace(setting, default=value)
        else:
            yield Setting((*prefix, field.name), hints[field.name], texts.get(field.name, ""), default)


def flags(
    cls: type, *, first: tuple[str, ...] = (), hidden: tuple[str, ...] = (), defaults: dict[str, Any] | None = None
) -> Any:
    """Annotation that makes every setting of a config an optional flag, but for the hidden ones.

    Settings named in `first` lead the help. `defaults` are those of the command, where they differ from the config's.
    """
    own = defaults or {}
    shown = [
        dataclasses.replace(setting, default=own.get(setting.name, setting.default))
        for setting in settings(cls)
        if setting.name not in hidden
    ]
    places = {name: place for place, name in enumerate(first)}
    shown.sort(key=lambda setting: (PANELS[panel(setting, first)].sort_key, places.get(setting.name, 0)))
    fields = []
    for setting in shown:
        group, kind = PANELS[panel(setting, first)], str if setting.name in REPEATED else written_as(setting.hint)
        metavar = "FILE" if setting.name in COMMON["Files"] else METAVARS[kind]
        plain: dict[str, Any] = {"negative": ()} if setting.name in REPEATED else {}
        parameter = Parameter(
            help=described(setting),
            show_default=False,
            group=group,
            metavar=metavar,
            converter=CONVERTERS.get(kind),
            **plain,
        )
        hint: Any = list[str] if setting.name in REPEATED else str if kind is tuple else kind
        fields.append((setting.name, Annotated[hint | None, parameter], dataclasses.field(default=None)))
    made = dataclasses.make_dataclass(f"{cls.__name__}Flags", fields, kw_only=True)
    made.__module__ = cls.__module__  # cyclopts opens no class that says it is the standard library's
    return Annotated[made | None, Parameter(name="*")]


def panel(setting: Setting, first: tuple[str, ...]) -> str:
    """Which panel of the help a setting is shown in."""
    if setting.name in first:
        return "Main settings"
    if len(setting.path) > 1:
        return setting.path[0].capitalize()
    return next((title for title, names in COMMON.items() if setting.name in names), "More settings")


def written_as(hint: Any) -> type:
    """What a setting of this type is written as: bool, int, float, str, or tuple for several with commas."""
    if tuple_of(hint):
        return tuple
    return next((kind for kind in (bool, int, float) if kind in (hint, *get_args(hint))), str)


def tuple_of(hint: Any) -> Any:
    """The tuple that a setting of this type holds, perhaps beside None; None for one that holds no tuple."""
    return next((kind for kind in (hint, *get_args(hint)) if get_origin(kind) is tuple), None)


def described(setting: Setting) -> str:
    """The help of a setting: what it does, and its default unless that is empty or stated in the text."""
    if setting.default is dataclasses.MISSING:
        return f"{setting.help} [required]"
    if setting.default in (None, "", ()) or "[default:" in setting.help:
        return setting.help
    return f"{setting.help} [default: {show(setting.default)}]"


def accepts(cls: type, **shown: Any) -> Callable[[Command], Command]:
    """Decorator: the command's `given` parameter takes every setting of a config as a flat flag; see `flags`."""

    def annotate(command: Command) -> Command:
        command.__annotations__["given"] = flags(cls, **shown)
        return command

    return annotate


def show(value: Any) -> str:
    """A default as it is typed on the command line: scales and lists with commas."""
    if isinstance(value, tuple):
        return ",".join("x".join(map(str, dict.fromkeys(v))) if isinstance(v, tuple) else str(v) for v in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def settle(cls: type[Config], given: Any, *, file: str = "", base: dict[str, Any] | None = None) -> Config:
    """A config from `base` (nested values), overridden by a settings file, overridden by the flags given.

    Raises ValueError naming an unknown setting, one that is missing, or one of the wrong type.
    """
    assert dataclasses.is_dataclass(cls)
    known = {setting.name: setting for setting in settings(cls)}
    values: dict[str, Any] = {
        field.name: essential(field.default_factory())
        for field in dataclasses.fields(cls)
        if field.default_factory is not dataclasses.MISSING
    }
    values |= base or {}
    if file:
        merge(values, read_settings(file), known, file)
    chosen = {} if given is None else {name: value for name, value in vars(given).items() if value is not None}
    merge(values, chosen, known, "command line")
    for setting in known.values():
        if len(setting.path) == 1 and setting.default is dataclasses.MISSING and setting.name not in values:
            raise ValueError(f"--{setting.name} is missing; {setting.help}")
    return from_dict(cls, values, where="settings")


def merge(values: dict[str, Any], new: dict[str, Any], known: dict[str, Setting], where: str) -> None:
    """Put settings, flat or in groups, into nested `values`. Raises ValueError for one that is not known."""
    groups = {setting.path[0] for setting in known.values() if len(setting.path) > 1}
    for name, value in new.items():
        name = name.replace("-", "_")
        if name in groups and isinstance(value, dict):
            merge(values, value, known, f"{where}, {name}")
        elif name in known:
            *group, leaf = known[name].path
            inside = values.setdefault(group[0], {}) if group else values
            inside[leaf] = convert(known[name], value, where)
        else:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where}: setting {name!r} is not known; {hint}")


def convert(setting: Setting, value: Any, where: str) -> Any:
    """A value that is written as text: 1e-3 (which YAML reads as text), lists as 1,2,3, scales as 1x2,2x4."""
    if setting.name in REPEATED:
        if not isinstance(value, (str, list, tuple)):
            raise ValueError(f"{where}: {setting.name}: expected a text or a list of texts, got {value!r}")
        return [value] if isinstance(value, str) else value
    try:
        if isinstance(value, str) and setting.hint in (int, float):
            return setting.hint(value)
        if isinstance(value, (str, int, float)) and (several := tuple_of(setting.hint)):
            if setting.name.endswith("scales"):
                from nextscale.pyramid import parse_schedule

                return parse_schedule(str(value)).sizes
            kind = get_args(several)[0]
            return tuple(kind(part) for part in str(value).split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{where}: {setting.name}: {error}") from error
    return value


def read_settings(file: str) -> dict[str, Any]:
    """A YAML mapping (JSON is YAML). Raises ValueError naming the file."""
    import yaml

    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--config {file}: not YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {file}: expected a mapping of settings, got {type(values).__name__}")
    return values
