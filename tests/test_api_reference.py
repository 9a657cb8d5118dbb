"""The reference names everything public, and everything in it is described."""

import dataclasses
import inspect
import re
from importlib import import_module
from inspect import ismodule
from pathlib import Path
from pkgutil import iter_modules

import pytest
from docstring_parser import parse_from_object

import nextscale

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DIRECTIVES = re.findall(
    r"^\.\. auto(?:class|function|data|exception):: ([\w.]+)((?:\n   :.*)*)", REFERENCE, flags=re.MULTILINE
)


def found(name: str) -> object:
    module, _, leaf = name.rpartition(".")
    inside = import_module(module)
    return getattr(inside, leaf) if hasattr(inside, leaf) else import_module(name)


def ours(cls: type) -> set[str]:
    """Public members that the package defines."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("nextscale")]
    return {name for base in bases for name in vars(base) if not name.startswith("_")}


def exported() -> set[str]:
    """What packages list as theirs to give."""
    inner = [info.name for info in iter_modules(nextscale.__path__, "nextscale.") if info.ispkg]
    modules = [nextscale, *map(import_module, inner)]
    return {f"{module.__name__}.{name}" for module in modules for name in getattr(module, "__all__", ())}


def told() -> set[str]:
    """What the README, the pages of the documentation and the notebook import from the package or name in full."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "quickstart.ipynb"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    imported = re.findall(r"from (nextscale[\w.]*) import ([\w, ]+)", text)
    named = re.findall(r"`(nextscale(?:\.\w+)+)`", text)
    return {f"{module}.{name}" for module, names in imported for name in names.split(", ")} | set(named)


def test_every_public_name_is_in_the_reference() -> None:
    names = [name for name, _ in DIRECTIVES]
    assert len(names) == len(set(names))
    described = [found(name) for name in names]
    public = exported() | told()
    assert len(public) >= 25
    values = {name: found(name) for name in public}
    assert not [name for name, value in values.items() if not ismodule(value) and value not in described]


@pytest.mark.parametrize(("name", "options"), DIRECTIVES, ids=[name for name, _ in DIRECTIVES])
def test_what_the_reference_names_is_described(name: str, options: str) -> None:
    value = found(name)
    if name == "nextscale.__version__":
        return
    assert inspect.getdoc(value), name
    if not isinstance(value, type) or ":members:" not in options:
        return
    listed = re.search(r":members: (\S.*)", options)
    described = {
        parameter.arg_name
        for base in value.__mro__[:-1]
        for parameter in parse_from_object(base).params
        if parameter.description
    }
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    assert listed or fields <= described, f"{name}: fields without a description"
    for member in listed[1].split(", ") if listed else ours(value) - fields:
        text = inspect.getdoc(inspect.getattr_static(value, member)) if member not in described else "described"
        assert text, f"{name}.{member} has no description"
