"""Imports point one way: a module may only import from its own layer or one above it in this list."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "nextscale"
LAYERS = (
    (
        "__init__",
        "config",
        "runtime",
        "pyramid",
        "errors",
        "files",
        "progress",
        "classes",
        "environment",
        "pictures",
        "plots",
        "moved",
        "conditions",
        "prompts",
    ),
    ("nn",),
    ("tokenizer",),
    ("sampling",),
    ("families",),
    ("data",),
    ("int8_weights", "checkpoint", "published", "official", "official_files", "text", "frozen_text"),
    ("catalogue",),
    ("editing",),
    ("results", "conditioned", "pipeline", "settings"),
    ("evaluation",),
    ("bench",),
    ("training",),
    ("scaling",),
    ("export",),
    ("explain",),
    ("server",),
    ("studio",),
    ("cli", "__main__"),
)
"""A package has a layer of its own, so that no two import each other; single modules may share one."""
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top parts of our package that a module imports anywhere, also inside functions."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            names = [f"{base}.{alias.name}" if base == "nextscale" else base for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("nextscale."):
                parts.add(name.split(".")[1])
    return parts


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the lazy front door
    wrong = {part for part in imported(path) if part != "__version__" and LAYER[part] > LAYER[own]}
    assert not wrong, f"{own} must not import {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_have_one_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unpickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads"):
            safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
            assert ast.unparse(node.func) == "torch.load" and safe, f"{path}: {ast.unparse(node)}"


def test_library_modules_do_not_print() -> None:
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] in ("cli", "studio", "server"):
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert "print" not in {ast.unparse(call.func) for call in calls}, path


def test_a_package_has_a_layer_of_its_own() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    shared = [names for names in LAYERS if len(names) > 1 and packages & set(names) - {"cli"}]
    assert not shared and packages <= set(LAYER)


def test_the_core_is_small() -> None:
    core = [
        path for path in MODULES if path.relative_to(PACKAGE).parts[0] in ("nn", "tokenizer", "sampling", "families")
    ]
    assert len(core) + 1 <= 52, "with pyramid.py"
