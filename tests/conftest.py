"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products; read at the first one on CUDA
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # beside a busy process: twice as long, not five times
if not Path("/dev/nvidiactl").exists():  # Triton's kernels run in its interpreter, on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import settings
from torchvision.models import mobilenet_v2

from nextscale.evaluation import generation, text
from nextscale.evaluation.features import load_features
from nextscale.families.var import VAR
from nextscale.pipeline import VARPipeline
from nextscale.tokenizer.vqvae import VQVAE
from toys import CLASS_NAMES, SmallFeatures, make_pipeline, make_tokenizer, make_transformer, toy_image

# No test depends on how fast the machine is; where a change is judged, all runs try the same examples.
settings.register_profile("any machine", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("any machine")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Tests of an extra are left out where it is not installed, as on a machine that is only there for its GPU."""
    extra = {"server": "ray", "studio": "gradio"}.get(collection_path.name)
    return True if extra and find_spec(extra) is None else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests under the marker `gpu` are skipped where there is none."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def tokenizer() -> VQVAE:
    return make_tokenizer()


@pytest.fixture
def transformer() -> VAR:
    return make_transformer()


@pytest.fixture
def pipeline() -> VARPipeline:
    return make_pipeline()


@pytest.fixture
def model_folder(tmp_path: Path, pipeline: VARPipeline) -> Path:
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """File of random weights of torchvision's mobilenet_v2."""
    path = tmp_path_factory.mktemp("mobilenet") / "mobilenet.pth"
    torch.manual_seed(0)
    torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return str(path)


@pytest.fixture
def small_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Evaluations of images and texts know networks like `small-6` and `other-6`; none finds features made before."""

    def load(name: str, weights: str = "") -> torch.nn.Module:
        return SmallFeatures(name, weights) if name.startswith(("small-", "other-")) else load_features(name, weights)

    for module in (generation, text):
        monkeypatch.setattr(module, "load_features", load)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of toy images, one subfolder per class (none with `flat`)."""

    def make(name: str = "images", *, per_class: int = 8, flat: bool = False, side: int = 16) -> Path:
        folder = tmp_path / name
        for label, title in enumerate(CLASS_NAMES):
            for index in range(per_class):
                path = folder / (f"{title}{index:03d}.png" if flat else f"{title}/{index:03d}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                toy_image(label, index, side).save(path)
        return folder

    return make
