"""What a generation and a training cost: passes, FLOPs, what is read from memory, and the least time that takes.

FLOPs count a multiply-add of matrix products, attention and convolutions as two. Rates are per second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nextscale.families.config import DiTConfig, MaskGITConfig, RasterConfig, RQConfig
from nextscale.families.dit import FREQUENCIES
from nextscale.nn.transformer import TransformerConfig
from nextscale.pyramid import ScaleSchedule
from nextscale.sampling.diffusion import PREVIEWS
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

    def __mul__(self, times: float) -> GenerationFlops:
        return GenerationFlops(*(part * times for part in vars(self).values()))

    def __add__(self, other: GenerationFlops) -> GenerationFlops:
        return GenerationFlops(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Pass:
    """One pass through a stack of blocks: products of its blocks, attention and head alone, and what they read."""

    flops: float
    values: float
    "Weights of the blocks, keys and values that are read, in numbers."
    head: float
    "Weights of the head that are read, in numbers."

    def bytes_read(self, item: int) -> float:
        """Bytes read where a number of the blocks takes `item`."""
        return item * self.values + HEAD_BYTES * self.head


@dataclass(frozen=True)
class ModelCost:
    """What one image costs a transformer."""

    flops: GenerationFlops
    passes: list[Pass]
    "One after the other."
    parts: int
    "How often the sampler yields: scales, rows, steps, or tenths of a diffusion."


def model_cost(config: TransformerConfig, *, sequences: int, steps: int = 0) -> ModelCost:
    """The cost with `sequences` side by side: two with guidance; heads that are linear see the guided one alone.

    `steps` is the number of steps where a kind of model lets one choose it; 0 takes its own.
    """
    if isinstance(config, RQConfig):
        return rq_cost(config, sequences)
    if isinstance(config, DiTConfig):
        return dit_cost(config, sequences, steps or config.sampling_steps)
    if isinstance(config, MaskGITConfig):
        return maskgit_cost(config, sequences, steps or config.sampling_steps)
    flops = sequence_flops(config, config.sequence, sequences, heads=config.schedule.length)
    passes = sequence_passes(config, config.sequence, sequences, head=True)
    return ModelCost(flops, passes, config.schedule.final[0] if isinstance(config, RasterConfig) else len(passes))


def rq_cost(config: RQConfig, sequences: int) -> ModelCost:
    """The spatial transformer over all places, and at each of them the depth transformer over all codes."""
    inner, places = config.depth_config, config.positions
    once = modulation_flops(inner, head=True) * sequences  # the same at every place
    codes = sequence_flops(inner, inner.schedule, sequences, heads=config.codes)
    codes = replace(codes, blocks=codes.blocks - once) * places + GenerationFlops(once, 0, 0)
    passes = sequence_passes(config, config.sequence, sequences, head=False)
    passes += sequence_passes(inner, inner.schedule, sequences, head=True) * places
    spatial = sequence_flops(config, config.sequence, sequences, heads=0)
    return ModelCost(spatial + codes, passes, config.schedule.final[0])


def maskgit_cost(config: MaskGITConfig, sequences: int, steps: int) -> ModelCost:
    """`steps` passes over the whole map, and a head for both sequences: its sampler guides logits."""
    length = config.schedule.length
    step = sequence_flops(config, config.schedule, sequences, heads=length)
    once = modulation_flops(config, head=True) * sequences
    words = sequences * 2 * config.latent_channels * config.width * length
    step = replace(step, blocks=step.blocks - once + words, head=step.head * sequences)
    passes = sequence_passes(config, ScaleSchedule([(1, length)]), sequences, head=True) * steps
    return ModelCost(step * steps + GenerationFlops(once, 0, 0), passes, steps)


def dit_cost(config: DiTConfig, sequences: int, steps: int) -> ModelCost:
    """`steps` passes over the whole map, each modulated by its time."""
    width, tokens, inputs = config.width, config.tokens, config.latent_channels * config.patch**2
    timed = 2 * (FREQUENCIES * width + width**2) + modulation_flops(config, head=True)
    step = GenerationFlops(
        blocks=float(sequences * (2 * 12 * width**2 * config.depth * tokens + 2 * inputs * width * tokens + timed)),
        attention=float(sequences * 4 * tokens**2 * width * config.depth),
        head=float(sequences * 2 * width * inputs * tokens),
    )
    passes = sequence_passes(config, ScaleSchedule([(1, tokens)]), sequences, head=False) * steps
    return ModelCost(step * steps, passes, PREVIEWS)


def sequence_flops(
    config: TransformerConfig, sequence: ScaleSchedule, sequences: int, *, heads: int
) -> GenerationFlops:
    """Matrix products per token, AdaLN once per sequence, attention to all parts so far, the head at `heads` tokens."""
    width, depth, length = config.width, config.depth, sequence.length
    products = 2 * 12 * width**2 * depth * length
    projected = 2 * config.latent_channels * width * (length - sequence.lengths[0])
    modulation = modulation_flops(config, head=heads > 0)
    pairs = sum((span.stop - span.start) * span.stop for span in sequence.slices)  # queries x keys
    return GenerationFlops(
        blocks=float(sequences * (products + projected + modulation)),
        attention=float(sequences * 4 * pairs * width * depth),
        head=float(2 * width * config.codebook_size * heads),
    )


def modulation_flops(config: TransformerConfig, *, head: bool) -> float:
    """Those of the vectors by which AdaLN modulates one sequence."""
    if not config.adaln:
        return 0.0
    width = config.width
    blocks = 6 * width * (1 if config.shared_adaln else config.depth)
    return float(2 * width * (blocks + (2 * width if head else 0)))


def sequence_passes(config: TransformerConfig, sequence: ScaleSchedule, sequences: int, *, head: bool) -> list[Pass]:
    """A pass per part of a sequence; it reads all weights, and the keys and values of all parts so far."""
    width, depth = config.width, config.depth
    blocks = 12 * width**2 * depth
    classes = width * config.codebook_size if head else 0
    found = []
    for span in sequence.slices:
        length, known = span.stop - span.start, span.stop
        flops = sequences * (2 * blocks * length + 4 * length * known * width * depth) + 2 * classes * length
        found.append(Pass(float(flops), float(blocks + 2 * known * width * depth * sequences), float(classes)))
    return found


def decoder_flops(config: VQVAEConfig) -> float:
    """FLOPs of decoding one image, counted by torch on a decoder without weights."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = VQVAE(config)
        features = torch.empty(1, config.latent_channels, *config.schedule.final)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.decoder(model.post_quant_conv(features))
    return float(counter.get_total_flops())


def sampling_steps(config: TransformerConfig, steps: int = 0) -> int:
    """Passes of the model one after the other for an image; `steps` as in `model_cost`."""
    return len(model_cost(config, sequences=1, steps=steps).passes)


def generation_flops(
    config: TransformerConfig, tokenizer: VQVAEConfig, *, guided: bool, steps: int = 0
) -> GenerationFlops:
    """FLOPs of one image, decoding included; `steps` as in `model_cost`."""
    flops = model_cost(config, sequences=2 if guided else 1, steps=steps).flops
    return replace(flops, decoder=decoder_flops(tokenizer))


def training_flops(config: TransformerConfig) -> float:
    """FLOPs of one image in training: a pass over all its tokens, and twice that backwards."""
    return 3 * model_cost(config, sequences=1, steps=1).flops.total


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
    "Share of the passes' time in passes that wait for memory."


def roofline(cost: ModelCost, tokenizer: VQVAEConfig, *, item: int, flop_rate: float, byte_rate: float) -> Roofline:
    """The least time on a machine of these rates, numbers of `item` bytes: each pass takes the longer of two times.

    These are the time of its products and the time of reading what it needs from memory.
    """
    products = [one.flops / flop_rate for one in cost.passes]
    reads = [one.bytes_read(item) for one in cost.passes]
    memory = [read / byte_rate for read in reads]
    least = [max(pair) for pair in zip(products, memory, strict=True)]
    waiting = sum(waited for waited, computed in zip(memory, products, strict=True) if waited >= computed)
    decoding = decoder_flops(tokenizer) / flop_rate
    return Roofline(sum(least) + decoding, decoding, sum(reads), waiting / sum(least))
