"""Generation of the masked baseline (MaskGIT, section 3.2): all tokens predicted, the surest kept, step by step.

Shapes: B batch, L tokens, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nextscale.families.maskgit import MaskGIT, masked_share
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.draw import draw, gumbel_noise
from nextscale.sampling.filters import Guidance, tempered
from nextscale.sampling.next_scale import SamplingConfig, ScaleSample
from nextscale.tokenizer.quantizer import ResidualQuantizer
from nextscale.tokenizer.residual import flatten_map


def masked_counts(length: int, steps: int) -> list[int]:
    """Tokens still masked after each step: the cosine schedule, at least one fewer every step, 0 at the end."""
    counts, left = [], length
    for step in range(1, steps + 1):
        left = max(0, min(left - 1, int(length * masked_share(step / steps))))
        counts.append(left)
    counts[-1] = 0
    return counts


@torch.no_grad()
def sample_masked(
    model: MaskGIT,
    quantizer: ResidualQuantizer,
    classes: Tensor,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch, yielding after every step; guidance rises from 0 to its whole over the steps."""
    guidance = Guidance(config.guidance)
    condition = model.condition(guidance.classes(classes, model.config.unconditional))
    size, length = model.schedule.final, model.sequence.length
    steps = min(config.steps or model.config.sampling_steps, length)
    tokens = torch.zeros(len(classes), length, dtype=torch.int64, device=classes.device)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    for step, left in enumerate(masked_counts(length, steps)):
        latents = guidance.doubled(flatten_map(quantizer.lookup(tokens.unflatten(1, size))))
        logits = model.predict_masked(latents, guidance.doubled(masked), condition)
        logits = tempered(guidance.merged(logits, step / max(1, steps - 1)), config.temperature)
        noise = gumbel_noise(length, logits.shape[-1], generators, logits.device)
        chosen, _ = draw(logits, noise, top_k=config.top_k, top_p=config.top_p)
        sure = logits.log_softmax(dim=-1).gather(-1, chosen[..., None]).squeeze(-1)
        doubt = model.config.choice_temperature * (1 - (step + 1) / steps)
        sure = sure + doubt * gumbel_noise(1, length, generators, logits.device)[:, 0]
        sure = sure.masked_fill(~masked, torch.inf)  # what is known stays
        tokens = torch.where(masked, chosen, tokens)
        unsure = sure.argsort(dim=1)[:, :left]
        masked = torch.zeros_like(masked).scatter_(1, unsure, True)
        pyramid = TokenPyramid(tokens.clone(), model.schedule)
        shown = quantizer.decode(pyramid) * ~masked.view(-1, 1, *size)
        yield ScaleSample(step, pyramid[0], shown, pyramid)
