"""What an extra brings may be missing: one line says how to install it, before anything is computed."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from nextscale.cli import app, main
from nextscale.errors import EXTRAS
from nextscale.evaluation import plots
from toys import make_baseline

ROOT = Path(__file__).parents[1]
RESULTS = str(ROOT / "docs" / "results" / "scaling.json")
SPEED = str(ROOT / "docs" / "results" / "full-size.json")
ABLATION = [word for name in ("images", "data", "heldout", "tokenizer") for word in (f"--{name}", "x")] + [
    word for name in ("raster-data", "raster-heldout", "raster-tokenizer") for word in (f"--{name}", "x")
]


@pytest.fixture(autouse=True)
def fresh() -> None:
    plots.can_plot.cache_clear()


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("scipy", ["scaling", "fit", RESULTS], 'a fit needs scipy: pip install "nextscale[eval]"'),
        ("scipy", ["scaling", "predict", RESULTS, "--depth", "7"], "needs scipy: pip install"),
        ("scipy", ["scaling", "ablation", *ABLATION], "needs scipy: pip install"),
        ("matplotlib", ["scaling", "plot", RESULTS], 'a plot needs matplotlib: pip install "nextscale[eval]"'),
        ("matplotlib", ["bench", "--report", SPEED, "--plot", "x.png"], "a plot needs matplotlib: pip install"),
        ("matplotlib", ["evaluate", "generation", "--data", "DATA", "--sweep"], "a plot needs matplotlib: pip install"),
        ("torch_fidelity", ["evaluate", "generation", "--data", "DATA", "--count", "2"], "needs torch-fidelity: pip"),
        (
            "torchmetrics",
            ["evaluate", "reconstruction", "--data", "DATA"],
            "SSIM needs torchmetrics: pip install",
        ),
        ("diffusers", ["generate", "--model", "DIT", "--count", "1"], 'needs diffusers: pip install "nextscale[eval]"'),
        ("gradio", ["studio"], 'the studio needs gradio: pip install "nextscale[studio]"'),
        ("matplotlib", ["studio"], 'the studio needs matplotlib: pip install "nextscale[studio]"'),
        ("onnxruntime", ["export", "onnx"], 'onnxruntime: pip install "nextscale[onnx]"'),
        ("ray", ["serve"], 'the server needs ray: pip install "nextscale[serve]"'),
        ("prometheus_client", ["serve"], 'the server needs prometheus-client: pip install "nextscale[serve]"'),
    ],
)
def test_one_line_says_what_to_install(
    module: str, arguments: list[str], line: str, image_folder: Callable[..., Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "DATA" in arguments:
        arguments[arguments.index("DATA")] = str(image_folder())
    if "DIT" in arguments:
        arguments[arguments.index("DIT")] = str(tmp_path / "dit")
        make_baseline("dit").save_pretrained(tmp_path / "dit")
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and line in error


def test_an_import_that_nobody_looked_for_before(capsys, monkeypatch) -> None:
    """The last resort: whatever command needs it."""

    def fails(*arguments: object, **options: object) -> None:
        import torch_fidelity.nothing  # noqa: F401  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(type(app), "__call__", fails)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert main(["generate"]) == 2
    assert 'this needs torch-fidelity: pip install "nextscale[eval]"' in capsys.readouterr().err


def test_pictures_that_are_left_out_are_told_once(caplog, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level("INFO"):
        assert not plots.can_plot()
        assert not plots.can_plot()
    assert len(caplog.messages) == 1
    assert 'matplotlib: pip install "nextscale[eval]"' in caplog.messages[0]
    plots.can_plot.cache_clear()


def test_the_extras_bring_what_they_promise() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.values():
        names = [line.split(">=")[0].split("[")[0] for line in extras[extra]]
        assert package in names, f"{package} is not in {extra}"
    assert "matplotlib" in [line.split(">=")[0] for line in extras["studio"]]
