"""A tokenizer that lies in a folder; plots that are not drawn."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from nextscale.checkpoint import ModelConfig, save_model
from toys import make_tokenizer


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "tokenizer", ModelConfig(kind="tokenizer"), tokenizer=make_tokenizer())
    return tmp_path / "tokenizer"


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Files of plots stay empty, but where a test is marked `drawn`: drawing takes longer than training a toy."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("drawn") is None:
            patch.setattr(Figure, "savefig", lambda self, path, **settings: Path(path).touch())
        yield
