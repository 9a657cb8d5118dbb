"""What a generation cannot be faster than: each pass bound by products or by what it reads from memory.

Sizes are in bytes, rates per second; FLOPs count a multiply-add as two.
"""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.evaluation.cost import decoder_flops, sampling_steps
from nextscale.families.dit import DiTConfig
from nextscale.families.maskgit import MaskGITConfig
from nextscale.families.rq import RQConfig
from nextscale.nn import HEAD_WIDTH
from nextscale.nn.transformer import TransformerConfig
from nextscale.pyramid import ScaleSchedule
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
    if isinstance(config, RQConfig):
        spatial = stack(config, config.sequence, sequences, item, head=False)
        codes = stack(config.depth_config, config.depth_config.schedule, sequences, item, head=True)
        return spatial + codes * config.positions
    if isinstance(config, (DiTConfig, MaskGITConfig)):
        length = config.tokens if isinstance(config, DiTConfig) else config.schedule.length
        whole = stack(config, ScaleSchedule([(1, length)]), sequences, item, head=isinstance(config, MaskGITConfig))
        return whole * sampling_steps(config, steps)
    return stack(config, config.sequence, sequences, item, head=True)


def stack(config: TransformerConfig, sequence: ScaleSchedule, sequences: int, item: int, *, head: bool) -> list[Pass]:
    """A pass for each part of a sequence, which reads all weights, and keys and values of all parts so far."""
    width, depth = config.heads * HEAD_WIDTH, config.depth
    blocks = 12 * width**2 * depth
    classes = width * config.codebook_size if head else 0
    found = []
    for part in range(len(sequence)):
        span = sequence.slice(part)
        length, known = span.stop - span.start, span.stop
        flops = sequences * (2 * blocks * length + 4 * length * known * width * depth) + 2 * classes * length
        kept = 2 * known * width * depth * sequences
        found.append(Pass(float(flops), float(item * (blocks + kept) + HEAD_BYTES * classes)))
    return found
