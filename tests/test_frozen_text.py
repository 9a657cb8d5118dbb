"""Encoders of transformers: tiny ones with random weights, saved to folders."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nextscale.data.source import open_source
from nextscale.data.tokens import TokenCacheConfig
from nextscale.families.var import VAR
from nextscale.frozen_text import FrozenEncoder
from nextscale.nn import TextConfig
from nextscale.text import text_prompts
from nextscale.training.prompts import remember_features
from nextscale.training.tokens import write_tokens
from toys import CLASS_NAMES, make_tokenizer, toy_image, transformer_config

WORDS = ["a", "red", "blue", "green", "heart", "square", "</s>", "<pad>", "<unk>"]


def saved(folder: Path, kind: str) -> Path:
    """A network of transformers and its tokenizer."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    small: dict[str, Any] = {"vocab_size": len(WORDS), "num_hidden_layers": 1, "pad_token_id": 7, "eos_token_id": 6}
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_heads": 2, "num_layers": 1}
        network = transformers.T5ForConditionalGeneration(transformers.T5Config(**small | sizes))
    else:
        text = small | {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "max_position_embeddings": 20,
        }
        vision = {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "image_size": 32,
        }
        network = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    network.save_pretrained(folder)
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    plain.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 6)])
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_a_model_reads_their_features(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(tmp_path / "encoder", kind)
    from nextscale.frozen_text import frozen_encoder

    encoder = frozen_encoder(str(folder))
    assert encoder.features == 32 and not any(p.requires_grad for p in encoder.network.parameters())
    text = TextConfig(encoder=str(folder), features=32, tokens=4, width=64, blocks=1)
    with caplog.at_level(logging.WARNING, logger="nextscale"):
        wanted = text_prompts(text, ["a red heart", "blue", "", "a red blue green heart \x00 \ud800"], tell=True)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "the model reads 4 words; 3 words were left out"
    ]
    assert wanted.tokens.shape == (4, 4, 32) and wanted.tokens.dtype == torch.float16
    assert wanted.mask.sum(dim=1).tolist() == [4, 2, 0, 4]
    alone = text_prompts(text, ["blue"], tell=True)
    assert torch.equal(alone.tokens[0], wanted.tokens[1]), "to the digit, whatever is drawn beside it"
    torch.manual_seed(0)
    model = VAR(transformer_config(text=text)).eval()
    model.initialise()
    with torch.no_grad():
        logits = model(torch.randn(4, 29, 8), wanted)
    assert bool(logits.isfinite().all())
    assert not any("network" in name for name in model.state_dict()), "the encoder is no part of the model"
    if kind == "clip":
        with pytest.raises(ValueError, match="reads at most 20 tokens, got --text-tokens 64"):
            encoder.encoded(["a"], 64)


def test_features_lie_beside_the_tokens(tmp_path: Path) -> None:
    folder, images = saved(tmp_path / "encoder", "t5"), tmp_path / "images"
    from nextscale.data.tokens import open_tokens
    from nextscale.frozen_text import frozen_encoder

    for name in CLASS_NAMES:
        (images / name).mkdir(parents=True)
        toy_image(0, 0).save(images / name / "0.png")
    tokenizer = make_tokenizer()
    described = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=32)
    source = open_source(images, caption_template="a {name} square")
    cache = open_tokens(write_tokens(tokenizer, source, tmp_path / "tokens", described))
    text = TextConfig(encoder=str(folder), features=32, tokens=5, width=64)
    encoder = frozen_encoder(str(folder))
    expected = encoder.encoded(["a red square", ""], 5)
    remember_features(text, cache, str(tmp_path / "tokens"))
    (file,) = (tmp_path / "tokens").glob("text-*.safetensors")
    before = file.stat().st_mtime_ns
    remember_features(text, cache, str(tmp_path / "tokens"))
    assert file.stat().st_mtime_ns == before and set(encoder.rows) == {
        *(f"a {name} square" for name in CLASS_NAMES),
        "",
    }
    encoder.network = None  # what is remembered needs no network
    found = encoder.stored, [encoder.rows[prompt] for prompt in ("a red square", "")]
    torch.testing.assert_close(found[0][0][found[1]], expected[0], atol=2e-3, rtol=2e-3)


def test_what_is_kept_is_of_as_many_tokens_and_drawing_encodes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], int]] = []

    def computed(self: FrozenEncoder, prompts: list[str], tokens: int, tell: bool) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((list(prompts), tokens))
        return torch.zeros(len(prompts), tokens, 8).half(), torch.ones(len(prompts), tokens, dtype=torch.bool)

    monkeypatch.setattr(FrozenEncoder, "_computed", computed)
    network = torch.nn.Identity()
    network.config = SimpleNamespace(hidden_size=8)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    encoder = FrozenEncoder("any", network, None)
    encoder.remember(["a", "b"], 4, None)
    assert encoder.encoded(["b"], 4)[0].shape == (1, 4, 8) and asked == [(["a", "b"], 4)]
    assert encoder.encoded(["b"], 3)[0].shape == (1, 3, 8), "another model may read fewer"
    encoder.encoded(["c", "d"], 4, tell=True)
    assert asked[1:] == [(["b"], 3), (["c"], 4), (["d"], 4)]


def test_what_cannot_be_loaded_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from nextscale.frozen_text import frozen_encoder

    for name in ("nobody/no-such-encoder", str(tmp_path)):
        with pytest.raises(ValueError, match=r"text encoder .*: cannot be loaded \(.+\)") as caught:
            frozen_encoder(name)
        assert "\n" not in str(caught.value)


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextscale.errors.find_spec", lambda name: None)
    from nextscale.frozen_text import frozen_encoder

    with pytest.raises(ValueError, match=r'needs transformers: pip install "nextscale\[text\]"'):
        frozen_encoder("t5-small")
