"""What a generation and a training cost: parameters, steps and FLOPs of each kind of model.

FLOPs count a multiply-add of matrix products, attention and convolutions as two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nextscale.families.dit import FREQUENCIES, DiTConfig
from nextscale.families.maskgit import MaskGITConfig
from nextscale.families.rq import RQConfig
from nextscale.nn import HEAD_WIDTH
from nextscale.nn.transformer import TransformerConfig
from nextscale.pyramid import ScaleSchedule
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
    if isinstance(config, (DiTConfig, MaskGITConfig)):
        return steps or config.sampling_steps
    if isinstance(config, RQConfig):
        return config.positions * (1 + config.codes)  # the spatial transformer, then every code
    return len(config.sequence)


def generation_flops(
    config: TransformerConfig, tokenizer: VQVAEConfig, *, guided: bool, steps: int = 0
) -> GenerationFlops:
    """FLOPs of one image. With guidance there are two sequences; heads that are linear see what is guided already."""
    return pass_flops(config, sequences=2 if guided else 1, steps=steps) + GenerationFlops(
        0, 0, 0, decoder_flops(tokenizer)
    )


def training_flops(config: TransformerConfig) -> float:
    """FLOPs of one image in training: a pass over all its tokens, and twice that backwards."""
    return 3 * pass_flops(config, sequences=1, steps=1).total


def pass_flops(config: TransformerConfig, *, sequences: int, steps: int) -> GenerationFlops:
    """The transformer's share of `generation_flops`."""
    width, depth = config.width, config.depth
    if isinstance(config, RQConfig):
        spatial = sequence_flops(config, config.sequence, sequences, heads=0)
        codes = sequence_flops(config.depth_config, config.depth_config.schedule, sequences, heads=config.codes)
        once = modulation_flops(config.depth_config, head=True) * sequences  # rows are those of every place
        places = replace(codes, blocks=codes.blocks - once) * config.positions
        return spatial + places + GenerationFlops(once, 0, 0)
    if isinstance(config, DiTConfig):
        inputs, tokens = config.latent_channels * config.patch**2, config.tokens
        timed = 2 * (FREQUENCIES * width + width**2) + modulation_flops(config, head=True)
        each = GenerationFlops(
            blocks=float(sequences * (2 * 12 * width**2 * depth * tokens + 2 * inputs * width * tokens + timed)),
            attention=float(sequences * 4 * tokens**2 * width * depth),
            head=float(sequences * 2 * width * inputs * tokens),
        )
        return each * sampling_steps(config, steps)
    if isinstance(config, MaskGITConfig):
        length = config.schedule.length
        whole = sequence_flops(config, config.schedule, sequences, heads=length)
        once = modulation_flops(config, head=True) * sequences
        words = sequences * 2 * config.latent_channels * width * length
        each = GenerationFlops(whole.blocks - once + words, whole.attention, whole.head * sequences)
        return each * sampling_steps(config, steps) + GenerationFlops(once, 0, 0)
    return sequence_flops(config, config.sequence, sequences, heads=config.schedule.length)


def sequence_flops(
    config: TransformerConfig, sequence: ScaleSchedule, sequences: int, *, heads: int
) -> GenerationFlops:
    """Matrix products per token, AdaLN once per sequence, attention to all parts so far, the head at `heads` tokens."""
    width, depth, length = config.width, config.depth, sequence.length
    products = 2 * 12 * width**2 * depth * length
    projected = 2 * config.latent_channels * width * (length - sequence.lengths[0])
    modulation = modulation_flops(config, head=heads > 0)
    spans = [sequence.slice(part) for part in range(len(sequence))]
    pairs = sum((span.stop - span.start) * span.stop for span in spans)  # queries x keys
    return GenerationFlops(
        blocks=float(sequences * (products + projected + modulation)),
        attention=float(sequences * 4 * pairs * config.heads * HEAD_WIDTH * depth),
        head=float(2 * width * config.codebook_size * heads),
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
