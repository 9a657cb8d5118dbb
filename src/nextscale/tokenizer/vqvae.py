"""The multi-scale residual VQVAE: images <-> TokenPyramid (paper, section 3.2).

Shapes: B batch, (H, W) pixels, C latent channels, (h, w) latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn.conv import Decoder, Encoder, channels_last
from nextscale.nn.graphs import GraphedModule, powers_of_two
from nextscale.nn.vit import ViTDecoder, ViTEncoder
from nextscale.pyramid import Size, TokenPyramid
from nextscale.runtime import exact_float32
from nextscale.tokenizer.config import VQVAEConfig
from nextscale.tokenizer.quantizer import Quantized, ResidualQuantizer

DECODED, DECODED_BYTES = 16, 2 * 2**30
"""Images that are decoded at once on CUDA, and about the memory that they may take."""


def decoded_within(room: int, config: VQVAEConfig, dtype: torch.dtype) -> int:
    """Images that the decoder works on within about `room` bytes: a power of two, 1 to 16."""
    images = room // (6 * config.largest_map * dtype.itemsize)  # as many of the largest maps live at once
    return 1 << (max(1, min(DECODED, images)).bit_length() - 1)


def encoder_and_decoder(config: VQVAEConfig) -> tuple[Encoder | ViTEncoder, Decoder | ViTDecoder]:
    """Images -> features, and features -> images."""
    if config.architecture == "vit":
        encoder = ViTEncoder(config.width, config.depth, config.heads, patch=config.patch)
        return encoder, ViTDecoder(config.decoder_width, config.decoder_depth, config.decoder_heads, patch=config.patch)
    features = features_of(config)[0]
    widths, decoded = (
        [channels * multiplier for multiplier in config.multipliers]
        for channels in (config.channels, config.decoder_channels or config.channels)
    )
    shared: Any = {"patch": config.patch, "attention": config.attention, "dropout": config.dropout}
    encoder = Encoder([config.channels, *widths], config.encoder_blocks, features, **shared)
    return encoder, Decoder(decoded[::-1], config.decoder_blocks, features, **shared)


def features_of(config: VQVAEConfig) -> tuple[int, int]:
    """Channels that the encoder gives and that the decoder takes."""
    if config.architecture == "vit":
        return config.width, config.decoder_width
    channels = config.feature_channels or config.latent_channels
    return channels, channels


class VQVAE(GraphedModule):
    """Tokenizer: encoder, multi-scale residual quantiser, decoder."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        latents, (given, taken) = config.latent_channels, features_of(config)
        kernel: Any = {"kernel_size": 1} if config.factorised else {"kernel_size": 3, "padding": 1}
        self.encoder, self.decoder = encoder_and_decoder(config)
        self.quant_conv = nn.Conv2d(given, latents, **kernel)
        self.post_quant_conv = nn.Conv2d(latents, taken, **kernel)
        self.quantizer = ResidualQuantizer(
            self.schedule,
            codebook_size=config.codebook_size,
            channels=latents,
            phi_map=config.phi_map,
            beta=config.beta,
            normalised=config.normalised_codes,
        )
        channels_last(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantizer.codebook.device

    def set_decoder_dtype(self, dtype: torch.dtype) -> None:
        """Run the decoder in a lower precision. Encoder and quantizer stay in float32, so tokens do not change."""
        self.decoder.to(dtype)
        self.post_quant_conv.to(dtype)
        if self.graphs is not None:
            self.graphs.clear()

    def features(self, images: Tensor) -> Tensor:
        """Continuous latents f, (B, 3, H, W) in [-1, 1] -> (B, C, h, w); unit vectors where codes are normalised."""
        height, width = self.config.image_size
        if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != (height, width):
            raise ValueError(f"images must be (batch, 3, {height}, {width}), got {tuple(images.shape)}")
        latents = self.quant_conv(self.encoder(images))
        return F.normalize(latents.float(), dim=1) if self.config.normalised_codes else latents

    def encode(self, images: Tensor) -> TokenPyramid:
        """Tokenise (B, 3, H, W) in [-1, 1]. Raises ValueError on another shape."""
        with torch.no_grad(), exact_float32():
            return self.quantizer.encode(self.features(images))

    def decode(self, pyramid: TokenPyramid) -> Tensor:
        """Images of a pyramid, (B, 3, H, W) in [-1, 1]."""
        return self.decode_features(self.quantizer.decode(pyramid))

    def decode_features(self, features: Tensor) -> Tensor:
        """Images of accumulated features f_hat, (B, C, h, w) -> (B, 3, H, W) float32 in [-1, 1]."""
        if self.graphs is not None and len(features) <= self.decoded_at_once:
            return self.graphs(("decode", self), self._decoded, features)[0]
        return self._decoded(features)[0]

    def _decoded(self, features: Tensor) -> tuple[Tensor]:
        dtype = self.post_quant_conv.weight.dtype
        with torch.no_grad(), exact_float32():
            return (self.decoder(self.post_quant_conv(features.to(dtype))).float().clamp(-1, 1),)

    @property
    def decoded_at_once(self) -> int:
        """Images that are decoded together: one in float32 and on CPU, else a power of two that memory bounds."""
        weight = self.post_quant_conv.weight
        alone = weight.device.type != "cuda" or weight.dtype == torch.float32
        return 1 if alone else decoded_within(DECODED_BYTES, self.config, weight.dtype)

    def decode_each(self, features: Tensor) -> Tensor:
        """`decode_features` of any batch, part by part: memory stays bounded.

        In float32 and on CPU, parts are single images, whose pixels then do not depend on the batch.
        """
        parts = features.split(powers_of_two(len(features), self.decoded_at_once))
        return torch.cat([self.decode_features(part) for part in parts])

    def decode_scales(self, pyramid: TokenPyramid) -> Iterator[Tensor]:
        """The image after each scale, coarse to fine."""
        with torch.no_grad():
            for state in self.quantizer.states(pyramid):
                yield self.decode_features(state.accumulated)

    def forward(
        self, images: Tensor, shown: Callable[[TokenPyramid], Tensor] | None = None
    ) -> tuple[Tensor, Quantized]:
        """Reconstruction (unclamped) and quantisation, with gradients, for training. `shown` is the quantiser's."""
        quantized = self.quantizer(self.features(images), shown)
        return self.decoder(self.post_quant_conv(quantized.features)), quantized


@dataclass(frozen=True)
class PixelConfig:
    """The images of a model of pixels."""

    image_size: Size
    "Height and width, in pixels."


class PixelTokenizer(nn.Module):
    """In place of the tokenizer of a model of pixels, whose accumulated map is the image itself."""

    quantizer = None
    "There are no tokens."

    def __init__(self, image_size: Size) -> None:
        super().__init__()
        self.config = PixelConfig(image_size)

    def encode(self, images: Tensor) -> TokenPyramid:
        """Raises ValueError."""
        raise ValueError("a model of pixels has no tokenizer, and its images no tokens")

    def set_decoder_dtype(self, dtype: torch.dtype) -> None:
        """Do nothing: there is no decoder."""

    def decode_features(self, features: Tensor) -> Tensor:
        """Images (B, 3, H, W) as they are, float32 in [-1, 1]."""
        return features.float().clamp(-1, 1)

    decode_each = decode_features
