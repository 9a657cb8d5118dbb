"""A tokenizer that lies in a folder."""

from pathlib import Path

import pytest

from nextscale.checkpoint import ModelConfig, save_model
from toys import make_tokenizer


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "tokenizer", ModelConfig(kind="tokenizer"), tokenizer=make_tokenizer())
    return tmp_path / "tokenizer"
