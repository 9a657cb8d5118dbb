"""What the Inspect tab shows of one image: its pyramid, what each scale adds, codes, likelihood, attention.

Shapes: B batch, K scales, L tokens, H heads, (h_k, w_k) grid of scale k, (H, W) pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from nextscale.data.decode import center_crop
from nextscale.families.var import VAR
from nextscale.nn.attention import SelfAttention
from nextscale.pictures import grid, to_images, to_tensor
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.likelihood import teacher_inputs
from nextscale.tokenizer.quantizer import ResidualQuantizer
from nextscale.tokenizer.usage import CodebookUsage

CELL = 96
"""Pixels of a map of one scale."""


@dataclass(frozen=True)
class Inspection:
    """An image and all that is computed of it once."""

    image: Image.Image
    tokens: TokenPyramid
    stages: list[Image.Image]
    "The image after each scale."
    norms: list[float]
    "Root mean square of the latents that are still unexplained: at the start, and after each scale."
    likelihood: Tensor
    "log p of each token given the coarser scales and the class, (L,) nats."
    label: int
    "The likeliest class."


@torch.no_grad()
def inspect_image(pipeline: VARPipeline, picture: Image.Image, label: int | None = None) -> Inspection:
    """Everything about an image, cropped to the model's size; `label` is its class, None the likeliest."""
    tokenizer = pipeline.tokenizer
    cropped = center_crop(picture, tokenizer.config.image_size)
    pixels = to_tensor([cropped]).to(pipeline.device)
    tokens = tokenizer.encode(pixels)
    features = tokenizer.features(pixels).float()
    states = list(tokenizer.quantizer.states(tokens))
    left = [features, *(features - state.accumulated for state in states)]
    stages = [to_images(tokenizer.decode_each(state.accumulated))[0] for state in states]
    if label is None:
        unconditional = pipeline.transformer.config.unconditional
        found = pipeline.class_log_likelihoods(tokens)[0] if 0 < unconditional <= 100 else torch.empty(0)
        label = int(found.argmax()) if len(found) else int(unconditional)
    likelihood = pipeline.log_likelihood(tokens, [pipeline.class_or_none(label)])[0].cpu()
    norms = [float(rest.square().mean().sqrt()) for rest in left]
    return Inspection(Image.fromarray(cropped), tokens, stages, norms, likelihood, label)


def codebook_usage(inspection: Inspection) -> list[list[str | int | float]]:
    """Per scale: its size, tokens, different codes among them, their perplexity, nats per token."""
    schedule, codes = inspection.tokens.schedule, int(inspection.tokens.packed.max()) + 1
    usage = CodebookUsage(len(schedule), codes, inspection.tokens.packed.device)
    usage.add(inspection.tokens)
    perplexity, different = usage.perplexity(), (usage.counts > 0).sum(dim=1)
    return [
        [
            f"{size[0]} x {size[1]}", schedule.lengths[k], int(different[k]), round(float(perplexity[k]), 1),
            round(-float(inspection.likelihood[schedule.slice(k)].mean()), 2),
        ]
        for k, size in enumerate(schedule)
    ]  # fmt: skip


def additions(inspection: Inspection) -> Image.Image:
    """What each scale changes in the image: grey is nothing."""
    before = np.full_like(np.asarray(inspection.stages[0]), 127).astype(np.int16)
    shown = []
    for stage in inspection.stages:
        now = np.asarray(stage).astype(np.int16)
        shown.append(Image.fromarray(np.clip(127 + (now - before), 0, 255).astype(np.uint8)))
        before = now
    return grid([one.resize((CELL, CELL), Image.Resampling.BICUBIC) for one in shown], columns=len(shown), gap=4)


def heat(values: Tensor, schedule: ScaleSchedule, low: float, high: float) -> Image.Image:
    """Values of all tokens (L,) as a map per scale: dark is `low`, bright is `high`."""
    shown = []
    for span, size in zip(schedule.slices, schedule, strict=True):
        level = ((values[span] - low) / max(high - low, 1e-9)).clamp(0, 1).reshape(size).numpy()
        shown.append(Image.fromarray(coloured(level)).resize((CELL, CELL), Image.Resampling.NEAREST))
    return grid(shown, columns=len(shown), gap=4)


def coloured(level: np.ndarray) -> np.ndarray:
    """Levels from 0 to 1 -> uint8 RGB from dark blue over violet and orange to pale yellow."""
    stops = np.array([(13, 8, 60), (110, 20, 140), (200, 70, 90), (250, 150, 50), (252, 250, 200)], dtype=float)
    place = level * (len(stops) - 1)
    index = np.minimum(place.astype(int), len(stops) - 2)
    share = (place - index)[..., None]
    return (stops[index] * (1 - share) + stops[index + 1] * share).astype(np.uint8)


def mask_picture(schedule: ScaleSchedule) -> Image.Image:
    """The block-wise causal mask: row by query, bright where it sees a key, lines between scales."""
    mask = schedule.mask().numpy()
    factor = max(1, -(-384 // len(mask)))
    side = len(mask) * factor
    pixels = np.where(mask[..., None], np.array([250, 190, 90]), np.array([36, 24, 70])).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    for end in schedule.ends[:-1]:
        place = end * factor
        pen.line([(place, 0), (place, picture.height)], fill=(255, 255, 255))
        pen.line([(0, place), (picture.width, place)], fill=(255, 255, 255))
    return picture


def attention_of(pipeline: VARPipeline, inspection: Inspection, scale: int, row: int, column: int) -> Image.Image:
    """Where the token at (row, column) of a scale looks, over all blocks: a map per scale, brightest where most."""
    schedule = inspection.tokens.schedule
    token = schedule.slice(scale).start + row * schedule[scale][1] + column
    model, classes = pipeline.editing_model, torch.tensor([inspection.label])
    shares = attention_shares(model, pipeline.tokenizer.quantizer, inspection.tokens, classes)
    seen = torch.stack(shares)[:, 0, token].mean(dim=0)
    return heat(seen.sqrt(), schedule, 0.0, float(seen.max().sqrt()))


@torch.no_grad()
def attention_shares(model: VAR, quantizer: ResidualQuantizer, tokens: TokenPyramid, classes: Tensor) -> list[Tensor]:
    """Per block, the mean over heads of softmax attention, (B, L, L) float32: rows are queries and sum to 1.

    Teacher forcing: each token sees its own scale and the coarser ones (paper, section 3.3).
    """
    shares: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, SelfAttention)
        query, key, _, factor = module.project(inputs[0])
        scores_BHLL = (query.float() @ key.float().transpose(-2, -1)) * factor
        shares.append(scores_BHLL.masked_fill(~model.mask, -torch.inf).softmax(dim=-1).mean(dim=1).cpu())

    hooks = [block.attention.register_forward_pre_hook(look) for block in model.blocks]
    try:
        model(teacher_inputs(model, quantizer, tokens.to(model.device)), classes.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return shares
