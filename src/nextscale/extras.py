"""Packages that only some commands need: what is missing is said in one line, with the command that installs it."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "matplotlib": ("matplotlib", "eval"),
    "scipy": ("scipy", "eval"),
    "torchmetrics": ("torchmetrics", "eval"),
    "torch_fidelity": ("torch-fidelity", "eval"),
    "diffusers": ("diffusers", "eval"),
    "gradio": ("gradio", "studio"),
    "ray": ("ray", "serve"),
    "fastapi": ("fastapi", "serve"),
    "multipart": ("python-multipart", "serve"),
    "prometheus_client": ("prometheus-client", "serve"),
    "pillow_heif": ("pillow-heif", "heic"),
}
"""Name of the package and the extra of ours that brings it, by what is imported."""


def require(what: str, *modules: str, extra: str = "") -> None:
    """Raises ValueError that says how to install what `what` needs, where a module is not there."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        packages = ", ".join(EXTRAS[module][0] for module in missing)
        raise ValueError(f'{what} needs {packages}: pip install "nextscale[{extra or EXTRAS[missing[0]][1]}]"')


def missing_extra(error: ModuleNotFoundError) -> str:
    """The same line for an import that failed; empty where the module is none of an extra's."""
    module = (error.name or "").split(".")[0]
    if module not in EXTRAS:
        return ""
    package, extra = EXTRAS[module]
    return f'this needs {package}: pip install "nextscale[{extra}]"'
