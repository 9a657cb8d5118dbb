"""What a generation and a training cost: parameters, steps and FLOPs of each kind of model.

FLOPs count a multiply-add of matrix products, attention and convolutions as two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nextscale.families.base import Stack
from nextscale.families.table import family_of
from nextscale.nn import TransformerConfig
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig


@dataclass(frozen=True)
class GenerationFlops:
    """Work of one image."""

    blocks: float
    attention: float
    head: float
    decoder: float = 0.0

    @property
    def total(self) -> float:
        return self.blocks + self.attention + self.head + self.decoder

    def __mul__(self, times: float) -> GenerationFlops:
        return GenerationFlops(*(part * times for part in (self.blocks, self.attention, self.head, self.decoder)))

    def __add__(self, other: GenerationFlops) -> GenerationFlops:
        return GenerationFlops(
            self.blocks + other.blocks, self.attention + other.attention, self.head + other.head,
            self.decoder + other.decoder,
        )  # fmt: skip


def sampling_steps(config: TransformerConfig, steps: int = 0) -> int:
    """Passes of the model one after the other for an image; `steps` where a kind lets one choose (0: its own)."""
    return sum(stack.times * len(stack.sequence) for stack in family_of(config).stacks(config, steps=steps)) or 1


def generation_flops(
    config: TransformerConfig, tokenizer: VQVAEConfig | None, *, guided: bool, steps: int = 0
) -> GenerationFlops:
    """FLOPs of one image. With guidance there are two sequences; heads that are linear see what is guided already."""
    decoder = 0.0 if tokenizer is None else decoder_flops(tokenizer)
    return pass_flops(config, sequences=2 if guided else 1, steps=steps) + GenerationFlops(0, 0, 0, decoder)


def training_flops(config: TransformerConfig) -> float:
    """FLOPs of one image in training: a pass over all its tokens, and twice that backwards."""
    return 3 * pass_flops(config, sequences=1, steps=1).total


def pass_flops(config: TransformerConfig, *, sequences: int, steps: int) -> GenerationFlops:
    """The model's share of `generation_flops`."""
    one = family_of(config)
    total = GenerationFlops(one.other_flops(config) * sequences, 0, 0)
    for stack in one.stacks(config, steps=steps):
        total = total + stack_flops(stack, sequences)
    return total


def stack_flops(stack: Stack, sequences: int) -> GenerationFlops:
    """Matrix products of every position, attention to all parts so far, AdaLN and the head, `times` times."""
    config, sequence = stack.config, stack.sequence
    width, depth = config.width, config.depth
    products = 2 * 12 * width**2 * depth * sequence.length + 2 * stack.latent_channels * width * stack.embedded
    pairs = sum((span.stop - span.start) * span.stop for span in sequence.slices)  # queries x keys
    readers = 1 if stack.head_after_guidance else sequences
    condition = modulation_flops(config, head=stack.head_positions > 0) + stack.condition_flops
    conditions = stack.times if stack.condition_each_time else 1
    return GenerationFlops(
        blocks=float(sequences * (products * stack.times + condition * conditions)),
        attention=float(sequences * 4 * pairs * width * depth * stack.times),
        head=float(readers * 2 * width * stack.head_outputs * stack.head_positions * stack.times),
    )


def modulation_flops(config: TransformerConfig, *, head: bool) -> float:
    """AdaLN's rows of one sequence."""
    if not config.adaln:
        return 0.0
    width = config.width
    blocks = 6 * width * (1 if config.shared_adaln else config.depth)
    return float(2 * width * (blocks + (2 * width if head else 0)))


def decoder_flops(config: VQVAEConfig) -> float:
    """FLOPs of decoding one image, counted by torch on a decoder without weights."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = VQVAE(config)
        features = torch.empty(1, config.latent_channels, *config.schedule.final)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.decoder(model.post_quant_conv(features))
    return float(counter.get_total_flops())
