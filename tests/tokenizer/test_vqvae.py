"""Images to pyramids and back."""

from dataclasses import replace

import pytest
import torch

from nextscale.config import from_dict
from nextscale.families.config import SCALES_512
from nextscale.nn.graphs import Graphs
from nextscale.tokenizer.quantizer import CodebookUsage
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig, decoded_within
from toys import make_tokenizer, tokenizer_config

VIT = {"architecture": "vit", "patch": 4, "width": 16, "depth": 1}


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (16, 16)),
        ({"patch": 1}, (8, 8)),
        ({"scales": ((1, 2), (2, 4), (3, 6))}, (12, 24)),
        ({"scales": ((4, 4),)}, (16, 16)),
        ({"scales": ((2, 2), (4, 4), (4, 4))}, (16, 16)),
        ({"attention": True, "multipliers": (1, 1, 2)}, (32, 32)),
        ({"feature_channels": 24}, (16, 16)),
        (VIT, (16, 16)),
        (VIT | {"scales": ((1, 2), (2, 3)), "decoder_width": 32, "patch": 8}, (16, 24)),
        (VIT | {"scales": ((2, 3),), "normalised_codes": True, "phi_map": (-1,)}, (8, 12)),
        ({"normalised_codes": True}, (16, 16)),
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


@pytest.mark.parametrize("changes", [{}, VIT])
def test_low_precision_decoder_leaves_tokens_alone(changes: dict) -> None:
    tokenizer, plain = make_tokenizer(**changes), make_tokenizer(**changes)
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


def test_factorised_codes_have_a_linear_map_on_either_side() -> None:
    tokenizer = make_tokenizer(feature_channels=24, scales=((4, 4),)).train()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert tokenizer.encoder(images).shape == (2, 24, 4, 4)
    assert tokenizer.quant_conv.weight.shape == (8, 24, 1, 1) and tokenizer.post_quant_conv.weight.shape == (
        24,
        8,
        1,
        1,
    )
    assert tokenizer.features(images).shape == (2, 8, 4, 4)
    rebuilt, quantized = tokenizer(images)
    sides = [tokenizer.quant_conv.weight, tokenizer.post_quant_conv.weight, tokenizer.encoder.conv_in.weight]
    gradients = torch.autograd.grad((rebuilt - images).square().mean(), sides, retain_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in gradients), "the picture's error goes straight through"
    gradients = torch.autograd.grad(quantized.loss, [*sides[::2], tokenizer.quantizer.codebook])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_normalised_latents_are_unit_vectors() -> None:
    tokenizer = make_tokenizer(normalised_codes=True, scales=((4, 4),), phi_map=(-1,))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    for latents in (tokenizer.features(images), tokenizer.quantizer.decode(tokenizer.encode(images))):
        torch.testing.assert_close(latents.norm(dim=1), torch.ones(2, 4, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "unet"}, "architecture 'unet' is not known; expected cnn or vit"),
        ({"depth": 3}, "depth is a ViT's; give architecture vit as well"),
        (VIT | {"width": 18}, "widths of a ViT must be multiples of 4"),
        (VIT | {"heads": -1}, "heads must be at least 0"),
        ({"phi_map": (0, 0, 0, -2)}, "phi_map needs one entry from -1 per scale"),
        ({"normalised_codes": True, "latent_channels": 1}, "are only 1 and -1"),
        ({"normalised_codes": True, "phi_map": (0, 0, 0, -1)}, "of several scales need phi"),
    ],
)
def test_architectures_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_config(**changes)


def test_a_vit_derives_what_is_left_out() -> None:
    config = VQVAEConfig(architecture="vit", patch=8, scales=((32, 32),), channels=7)
    assert (config.width, config.depth, config.heads) == (512, 8, 8), "ViT-VQGAN's Small"
    assert (config.decoder_width, config.decoder_depth, config.decoder_heads) == (512, 8, 8)
    assert config == replace(config, multipliers=(1,)), "settings of a CNN mean nothing"
    assert replace(config, decoder_width=1280, decoder_heads=0).decoder_heads == 20
    assert config.stride == 8 and decoded_within(2**30, config, torch.bfloat16) == 16


def test_stored_settings_are_those_that_matter() -> None:
    """Files of CNNs hold what they always did."""
    plain = tokenizer_config()
    before = "scales codebook_size latent_channels channels multipliers encoder_blocks decoder_blocks patch attention"
    assert list(plain.stored()) == [*before.split(), "dropout", "phi_map", "beta"]
    for config in (
        plain,
        tokenizer_config(normalised_codes=True),
        tokenizer_config(**VIT),
        tokenizer_config(feature_channels=9),
    ):
        assert from_dict(VQVAEConfig, config.stored()) == config
    assert not {"channels", "attention"} & set(tokenizer_config(**VIT).stored())
