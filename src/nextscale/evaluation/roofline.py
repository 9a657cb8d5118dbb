"""What a generation cannot be faster than: each pass bound by products or by what it reads from memory.

Sizes are in bytes, rates per second; FLOPs count a multiply-add as two.
"""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.evaluation.cost import decoder_flops
from nextscale.families.base import Stack
from nextscale.families.table import family_of
from nextscale.nn import TransformerConfig
from nextscale.tokenizer.vqvae import VQVAEConfig

HEAD_BYTES = 4
"""Of a number of the head, which stays in float32."""


@dataclass(frozen=True)
class Pass:
    """One pass through a stack of blocks."""

    flops: float
    read: float

    def seconds(self, flop_rate: float, byte_rate: float) -> float:
        return max(self.flops / flop_rate, self.read / byte_rate)


@dataclass(frozen=True)
class Roofline:
    """The least seconds of one image, and what its passes read."""

    seconds: float
    "Of all, decoding included."
    decoding: float
    read: float
    "Bytes of weights, keys and values."
    bound_by_memory: float
    "Share of the passes' time."


def roofline(
    config: TransformerConfig, tokenizer: VQVAEConfig, *, item: int, flop_rate: float, byte_rate: float, steps: int = 0
) -> Roofline:
    """For one image with guidance, on a machine of these rates, numbers of `item` bytes."""
    found = passes(config, item=item, steps=steps)
    each = [one.seconds(flop_rate, byte_rate) for one in found]
    waiting = sum(s for one, s in zip(found, each, strict=True) if one.read / byte_rate >= one.flops / flop_rate)
    decoding = decoder_flops(tokenizer) / flop_rate
    return Roofline(sum(each) + decoding, decoding, sum(one.read for one in found), waiting / sum(each))


def passes(config: TransformerConfig, *, item: int, sequences: int = 2, steps: int = 0) -> list[Pass]:
    """All passes of one image, `sequences` side by side."""
    stacks = family_of(config).stacks(config, steps=steps)
    return [one for stack in stacks for one in stack_passes(stack, sequences, item) * stack.times]


def stack_passes(stack: Stack, sequences: int, item: int) -> list[Pass]:
    """A pass for each part of a sequence, which reads all weights, and keys and values of all parts so far."""
    width, depth = stack.config.width, stack.config.depth
    blocks = 12 * width**2 * depth
    head = width * stack.head_outputs
    found = []
    for span in stack.sequence.slices:
        length, known = span.stop - span.start, span.stop
        flops = sequences * (2 * blocks * length + 4 * length * known * width * depth) + 2 * head * length
        kept = 2 * known * width * depth * sequences
        found.append(Pass(float(flops), float(item * (blocks + kept) + HEAD_BYTES * head)))
    return found
