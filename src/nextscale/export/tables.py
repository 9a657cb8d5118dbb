"""The quantiser as plain tables, with which the recursion over scales is a handful of matrix products.

Shapes: C latent channels, V codebook entries, (h, w) the final grid, l_k tokens of scale k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.sampling.spatial_guidance import prior_matrix
from nextscale.tokenizer.quantizer import ResidualQuantizer
from nextscale.tokenizer.residual import downsample, upsample


@torch.no_grad()
def quantizer_tables(quantizer: ResidualQuantizer) -> dict[str, Tensor]:
    """Tables by name, float32; scales and convolutions count from 0.

    `codebook` (V, C); `enlarge.K` (h w, l_k) and `reduce.K` (l_k, h w), bicubic and area; `phi.N` (3, 3, C, C) and
    `phi_bias.N` (C,), with phi's halves and its shortcut inside: phi(u) is this convolution of u, N as in
    `phi_numbers`; `prior.K` (l_k, l_(k-1)), what spatial guidance moves away from.
    """
    schedule = quantizer.schedule
    tables = {"codebook": quantizer.codes().float()}
    maps = one_at_each(*schedule.final)
    for scale, size in enumerate(schedule):
        tables[f"reduce.{scale}"] = downsample(maps, size).flatten(1).t()
        tables[f"enlarge.{scale}"] = upsample(one_at_each(*size), schedule.final).flatten(1).t()
        if scale > 0:
            tables[f"prior.{scale}"] = prior_matrix(schedule[scale - 1], size, torch.device("cpu"))
    for number, convolution in enumerate(quantizer.phi):
        assert isinstance(convolution, torch.nn.Conv2d) and convolution.bias is not None
        kernel = convolution.weight.float().permute(2, 3, 1, 0) / 2  # (3, 3, inputs, outputs)
        kernel[1, 1] += torch.eye(len(convolution.bias)) / 2
        tables[f"phi.{number}"], tables[f"phi_bias.{number}"] = kernel, convolution.bias.float() / 2
    if min(quantizer.phi_map) < 0:
        number, channels = len(quantizer.phi), quantizer.codebook.shape[1]
        unchanged = torch.zeros(3, 3, channels, channels)
        unchanged[1, 1] = torch.eye(channels)
        tables[f"phi.{number}"], tables[f"phi_bias.{number}"] = unchanged, torch.zeros(channels)
    return {name: table.contiguous() for name, table in tables.items()}


def phi_numbers(quantizer: ResidualQuantizer) -> list[int]:
    """N of each scale's convolution; scales without phi share a last one that leaves maps as they are."""
    return [len(quantizer.phi) if number < 0 else number for number in quantizer.phi_map]


def one_at_each(height: int, width: int) -> Tensor:
    """A map for each position that is 1 there and 0 elsewhere, (h w, 1, h, w)."""
    return torch.eye(height * width).view(-1, 1, height, width)
