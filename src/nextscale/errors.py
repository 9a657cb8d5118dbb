"""Errors as one line: what another library raised, a package that is missing, training that diverged."""

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
    "transformers": ("transformers", "text"),
    "pillow_heif": ("pillow-heif", "heic"),
    "onnx": ("onnx", "onnx"),
    "onnxscript": ("onnxscript", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
}
"""Packages that only some commands need, by the module imported: the package's name, and our extra that installs it."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number; the message says where the batch was saved. Exit status 1."""


class TrainingStopped(KeyboardInterrupt):
    """A training was asked to stop by SIGINT or SIGTERM: it has saved a checkpoint and left its loop.

    It is a KeyboardInterrupt so that whoever called the training ends as well, unless they ask for this error by name.
    """


def one_line(error: BaseException) -> str:
    """The first line of an error's message; its type where it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__


def require(what: str, *modules: str, extra: str = "") -> None:
    """Raises ValueError that says how to install what `what` needs, where a module is missing."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        packages = ", ".join(EXTRAS[module][0] for module in missing)
        raise ValueError(f'{what} needs {packages}: pip install "nextscale[{extra or EXTRAS[missing[0]][1]}]"')


def missing_extra(error: ModuleNotFoundError) -> str:
    """The same line for an import that failed; empty where no extra brings the module."""
    module = (error.name or "").split(".")[0]
    if module not in EXTRAS:
        return ""
    package, extra = EXTRAS[module]
    return f'this needs {package}: pip install "nextscale[{extra}]"'
