"""Images to pyramids and back."""

import pytest
import torch

from nextscale.families.config import SCALES_512
from nextscale.nn.graphs import Graphs
from nextscale.tokenizer.quantizer import CodebookUsage
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig, decoded_within
from toys import make_tokenizer


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (16, 16)),
        ({"patch": 1}, (8, 8)),
        ({"scales": ((1, 2), (2, 4), (3, 6))}, (12, 24)),
        ({"scales": ((4, 4),)}, (16, 16)),
        ({"scales": ((2, 2), (4, 4), (4, 4))}, (16, 16)),
        ({"attention": True, "multipliers": (1, 1, 2)}, (32, 32)),
    ],
)
def test_shapes_of_any_schedule(changes: dict, size: tuple[int, int]) -> None:
    tokenizer = make_tokenizer(**changes)
    assert tokenizer.config.image_size == size
    images = torch.rand(2, 3, *size) * 2 - 1
    pyramid = tokenizer.encode(images)
    decoded = tokenizer.decode(pyramid)
    assert decoded.shape == images.shape
    assert decoded.abs().max() <= 1
    stages = list(tokenizer.decode_scales(pyramid))
    assert len(stages) == len(tokenizer.schedule)
    torch.testing.assert_close(stages[-1], decoded)
    rebuilt, quantized = tokenizer(images)
    assert rebuilt.shape == images.shape
    assert torch.equal(quantized.tokens.packed, pyramid.packed)


def test_wrong_image_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \(batch, 3, 16, 16\)"):
        make_tokenizer().encode(torch.zeros(1, 3, 8, 8))


def test_low_precision_decoder_leaves_tokens_alone() -> None:
    tokenizer, plain = make_tokenizer(), make_tokenizer()
    tokenizer.set_decoder_dtype(torch.bfloat16)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(tokenizer.encode(images).packed, plain.encode(images).packed)
    pyramid = plain.encode(images)
    torch.testing.assert_close(tokenizer.decode(pyramid), plain.decode(pyramid), atol=0.05, rtol=0)


def test_parts_through_graphs_are_the_same_images(monkeypatch: pytest.MonkeyPatch, tokenizer: VQVAE) -> None:
    features = torch.randn(7, 8, 4, 4)
    one_by_one = tokenizer.decode_each(features)
    batches: list[int] = []
    tokenizer.decoder.register_forward_hook(lambda _, given, made: batches.append(len(made)))
    tokenizer.decode_each(features)
    assert batches == [1] * 7
    monkeypatch.setattr(VQVAE, "decoded_at_once", 4)
    tokenizer.graphs = Graphs(capture=False)
    batches.clear()
    torch.testing.assert_close(tokenizer.decode_each(features), one_by_one)
    torch.testing.assert_close(tokenizer.decode_features(features[:3]), one_by_one[:3])
    torch.testing.assert_close(tokenizer.decode_features(features), one_by_one)
    assert batches == [4, 2, 1, 4, 7]  # more than a part holds is decoded as it is


def test_parts_are_bounded_by_memory() -> None:
    official, large = VQVAEConfig(), VQVAEConfig(scales=SCALES_512)
    assert decoded_within(2 * 2**30, official, torch.bfloat16) == 16
    assert decoded_within(2 * 2**30, official, torch.float32) == 8
    assert decoded_within(2 * 2**30, large, torch.bfloat16) == 4
    assert decoded_within(0, large, torch.bfloat16) == 1
    assert decoded_within(2**40, large, torch.bfloat16) == 16


def test_usage_and_perplexity_of_known_counts(tokenizer) -> None:
    usage = CodebookUsage(len(tokenizer.schedule), 32)
    pyramid = tokenizer.encode(torch.rand(4, 3, 16, 16) * 2 - 1)
    usage.add(pyramid)
    for row, tokens in zip(usage.counts, pyramid, strict=True):
        assert torch.equal(row, tokens.flatten().bincount(minlength=32))
    usage.reset()
    usage.counts[0, :8] = 5  # uniform over eight codes
    usage.counts[1, 3] = 7  # one code only
    assert usage.perplexity()[:3].tolist() == pytest.approx([8, 1, 1])
    assert usage.used() == 8 / 32
    assert usage.summary()["used_per_scale"].tolist() == [0.25, 1 / 32, 0, 0]
