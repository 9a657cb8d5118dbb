"""What a generation and a training cost: passes, FLOPs, what is read from memory, and the least time that takes.

FLOPs count a multiply-add of matrix products, attention and convolutions as two. Rates are per second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from nextscale.families import family_of
from nextscale.families.base import Stack
from nextscale.nn import TransformerConfig
from nextscale.sampling.step import SamplingConfig
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig

HEAD_BYTES = 4
"""Bytes of a weight of the head, which stays in float32."""


@dataclass(frozen=True)
class GenerationFlops:
    """FLOPs of one image by part."""

    blocks: float
    attention: float
    head: float
    decoder: float = 0.0

    @property
    def total(self) -> float:
        return self.blocks + self.attention + self.head + self.decoder

    def __add__(self, other: GenerationFlops) -> GenerationFlops:
        return GenerationFlops(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def sampling_steps(config: Any, steps: int = 0) -> int:
    """Passes of the model one after the other for an image; `steps` where a kind lets one choose (0: its own)."""
    return sum(stack.passes for stack in family_of(config).stacks(config, steps=steps)) or 1


def generation_flops(
    config: Any, tokenizer: Any, *, guided: bool, steps: int = 0, guided_scales: int = 0
) -> GenerationFlops:
    """FLOPs of one image, decoding included.

    With guidance, two sequences go through the model side by side, in next-scale prediction through the first
    `guided_scales` (0: all).
    """
    flops = model_flops(config, sequences=2 if guided else 1, steps=steps, guided_scales=guided_scales)
    return replace(flops, decoder=decoder_flops(tokenizer)) if isinstance(tokenizer, VQVAEConfig) else flops


def training_flops(config: Any) -> float:
    """FLOPs of one image in training: a pass over all its tokens, and twice that backwards, unless its family knows."""
    return family_of(config).training_flops(config) or 3 * model_flops(config, sequences=1, steps=1).total


def sampled_flops(pipeline: Any, sampling: SamplingConfig) -> GenerationFlops:
    """`generation_flops` of a pipeline's image with these settings."""
    steps, guided = pipeline.family.steps_of(sampling), bool(sampling.guidance)
    parts = pipeline.transformer.config, pipeline.tokenizer.config
    return generation_flops(*parts, guided=guided, steps=steps, guided_scales=sampling.guided_scales)


def model_flops(config: Any, *, sequences: int, steps: int = 0, guided_scales: int = 0) -> GenerationFlops:
    """The model's share of `generation_flops`."""
    family = family_of(config)
    total = GenerationFlops(family.other_flops(config), 0, 0)
    for stack in family.stacks(config, steps=steps, guided_scales=guided_scales):
        total = total + stack_flops(stack, sequences if stack.guided else 1)
    return total


def parts_and_keys(stack: Stack) -> list[tuple[int, int]]:
    """Positions of each part of a sequence, and those that it attends to: all so far, or its own."""
    sequence = stack.sequence
    if not stack.config.sees_coarser:
        return [(length, length) for length in sequence.lengths]
    return [(length, stack.known + end) for length, end in zip(sequence.lengths, sequence.ends, strict=True)]


def stack_flops(stack: Stack, sequences: int) -> GenerationFlops:
    """Matrix products of every position, attention, AdaLN and the head, `times` times."""
    config, sequence = stack.config, stack.sequence
    width, depth = config.width, config.depth
    products = 2 * 12 * width**2 * depth * sequence.length + 2 * stack.latent_channels * width * stack.embedded
    # Queries x keys; a query of a single key takes its value, without a product.
    pairs = sum(length * known for length, known in parts_and_keys(stack) if known > 1)
    readers = 1 if stack.head_after_guidance else sequences
    condition = modulation_flops(config, head=stack.head_positions > 0) + stack.condition_flops + encoder_flops(config)
    products += text_flops(config) * sequence.length
    return GenerationFlops(
        blocks=float(sequences * (products * stack.times + condition * stack.conditions)),
        attention=float(sequences * 4 * pairs * width * depth * stack.times),
        head=float(readers * 2 * width * stack.head_outputs * stack.head_positions * stack.times),
    )


def text_flops(config: TransformerConfig) -> float:
    """Those of attention to a text at one position, in all blocks that have it; a text counts with all its tokens."""
    if config.text is None:
        return 0.0
    attending = sum(map(config.text.attended_by, range(config.depth)))
    return float(attending * (2 * 2 * config.width**2 + 4 * (1 + config.text.tokens) * config.width))


def encoder_flops(config: TransformerConfig) -> float:
    """Those of the text encoder of one sequence, and of the keys and values made of its tokens."""
    text = config.text
    if text is None:
        return 0.0
    attending, tokens = sum(map(text.attended_by, range(config.depth))), 1 + text.tokens
    own = 2 * tokens * (12 * text.width**2 * text.blocks + text.features * text.width)
    return float(own + 2 * 2 * tokens * text.width * config.width * attending)


def modulation_flops(config: TransformerConfig, *, head: bool) -> float:
    """Those of the vectors by which AdaLN modulates one sequence."""
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


@dataclass(frozen=True)
class Pass:
    """One pass through a stack of blocks: products of its blocks, attention and head alone, and what they read."""

    flops: float
    read: float
    "Bytes."

    def seconds(self, flop_rate: float, byte_rate: float) -> float:
        """The longer of two times: that of the products, and that of reading."""
        return max(self.flops / flop_rate, self.read / byte_rate)


@dataclass(frozen=True)
class Roofline:
    """The least time of one image, and what its passes read."""

    seconds: float
    "Of all passes and decoding."
    decoding: float
    "Of decoding alone, in seconds."
    read: float
    "Bytes of weights, keys and values."
    bound_by_memory: float
    "Share of the passes' time that is spent in passes which wait for memory."


def roofline(config: Any, tokenizer: VQVAEConfig | None, *, item: int, flop_rate: float, byte_rate: float) -> Roofline:
    """For one image with guidance, on a machine of these rates, numbers of `item` bytes.

    A model without blocks is taken to read its weights once, at one step.
    """
    found = passes(config, item=item) or [Pass(family_of(config).other_flops(config), item * weights_of(config))]
    each = [one.seconds(flop_rate, byte_rate) for one in found]
    waiting = sum(s for one, s in zip(found, each, strict=True) if one.read / byte_rate >= one.flops / flop_rate)
    decoding = decoder_flops(tokenizer) / flop_rate if tokenizer else 0.0
    return Roofline(sum(each) + decoding, decoding, sum(one.read for one in found), waiting / sum(each))


def weights_of(config: Any) -> int:
    """Parameters that generating takes."""
    family = family_of(config)
    with torch.device("meta"):
        return family.parameters(family.network(config))


def passes(config: TransformerConfig, *, item: int, sequences: int = 2) -> list[Pass]:
    """All passes of one image one after the other, `sequences` side by side, numbers of `item` bytes."""
    stacks = family_of(config).stacks(config)
    return [one for stack in stacks for one in stack_passes(stack, sequences, item) * stack.times]


def stack_passes(stack: Stack, sequences: int, item: int) -> list[Pass]:
    """A pass per part of a sequence; it reads all weights, and the keys and values that it attends to."""
    width, depth = stack.config.width, stack.config.depth
    blocks = 12 * width**2 * depth
    head = width * stack.head_outputs
    found = []
    for length, known in parts_and_keys(stack):
        flops = sequences * (2 * blocks * length + 4 * length * known * width * depth) + 2 * head * length
        kept = 2 * known * width * depth * sequences
        found.append(Pass(float(flops), float(item * (blocks + kept) + HEAD_BYTES * head)))
    return found
