"""Transformers between images and latents: their positions and blocks against plain forms, their published sizes."""

import math

import pytest
import torch
from torch.nn import functional as F

from nextscale.nn.vit import ViT, ViTBlock, ViTDecoder, ViTEncoder, sine_positions
from nextscale.tokenizer.config import tokenizer_presets
from nextscale.tokenizer.vqvae import VQVAE


def test_positions_are_waves_of_column_and_row() -> None:
    height, width, channels = 3, 5, 16
    found = sine_positions(height, width, channels)
    assert found.shape == (15, channels) and found.dtype == torch.float32
    for row in range(height):
        for column in range(width):
            expected = []
            for place in (column, row):
                angles = [place / 10_000 ** (i / 4) for i in range(4)]
                expected += [*map(math.sin, angles), *map(math.cos, angles)]
            torch.testing.assert_close(found[row * width + column], torch.tensor(expected))


def test_a_block_equals_its_formula() -> None:
    torch.manual_seed(0)
    block = ViTBlock(24, 2).double()
    x = torch.randn(3, 7, 24, dtype=torch.float64)
    query, key, value = block.qkv(block.norm1(x)).view(3, 7, 3, 2, 64).permute(2, 0, 3, 1, 4)
    shares = (query @ key.transpose(-2, -1) / 8).softmax(dim=-1)
    middle = x + block.proj((shares @ value).transpose(1, 2).reshape(3, 7, 128))
    first, _, second = block.feed_forward
    normed = F.layer_norm(middle, (24,))
    expected = middle + second(torch.tanh(first(normed)))
    torch.testing.assert_close(block(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected.detach())


def test_any_grid_goes_through_one_model() -> None:
    torch.manual_seed(0)
    encoder, decoder = ViTEncoder(16, 1, 1, patch=4), ViTDecoder(16, 1, 1, patch=4)
    for size in ((8, 8), (12, 20)):
        features = encoder(torch.randn(2, 3, *size))
        assert features.shape == (2, 16, size[0] // 4, size[1] // 4)
        assert decoder(features).shape == (2, 3, *size)
    assert not [name for name in encoder.state_dict() if "position" in name], "they are computed"
    patch = torch.randn(1, 3, 4, 4)
    wide = F.pad(patch, (4, 0))  # the same patch, one to the right
    torch.testing.assert_close(encoder.conv_in(wide)[..., 0, 1], encoder.conv_in(patch)[..., 0, 0])


def test_bf16_is_close() -> None:
    torch.manual_seed(0)
    model, features = ViT(64, 2, 1), torch.randn(2, 64, 3, 4)
    expected = model(features).detach()
    with torch.autocast("cpu", torch.bfloat16):
        trained = model(features)
    trained.float().sum().backward()
    with torch.no_grad():
        decoded = model.bfloat16()(features.bfloat16())
    for found in (trained, decoded):
        torch.testing.assert_close(found.detach().float(), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    # The paper counts one of both transformers; what else it counts for the small one is not said.
    [("small", 32e6, 0.21), ("base", 91e6, 0.07), ("large", 599e6, 0.02)],
)
def test_published_sizes(name: str, published: float, tolerance: float) -> None:
    config = tokenizer_presets()[f"vit-vqgan-{name}"]
    with torch.device("meta"):
        decoder = VQVAE(config).decoder
    assert sum(one.numel() for one in decoder.parameters()) == pytest.approx(published, rel=tolerance)
    assert config.schedule.length == 1024 and config.image_size == (256, 256)


def test_the_small_ones_are_as_large_as_the_cnns() -> None:
    for pixels in (32, 64, 128):
        with torch.device("meta"):
            cnn, vit = (VQVAE(tokenizer_presets()[f"{name}-{pixels}"]) for name in ("small", "vit-small"))
        assert vit.config.image_size == cnn.config.image_size and vit.schedule == cnn.schedule
        sizes = [sum(one.numel() for one in model.parameters()) for model in (vit, cnn)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
