"""What the Inspect tab computes: an image's pyramid, what each scale adds, its codes, their likelihood, and attention.

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
from nextscale.families.pair import ModelPair
from nextscale.families.var import VAR
from nextscale.nn.attention import SelfAttention
from nextscale.pictures import psnr, to_images, to_tensor
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.likelihood import teacher_inputs
from nextscale.tokenizer.quantizer import CodebookUsage, ResidualQuantizer

STOPS = ((13, 8, 60), (110, 20, 140), (200, 70, 90), (250, 150, 50), (252, 250, 200))
"""Colours of a map, from low to high: dark blue, violet, red, orange, pale yellow."""


@dataclass(frozen=True)
class Inspection:
    """An image and what is computed of it once."""

    image: Image.Image
    tokens: TokenPyramid
    stages: list[Image.Image]
    "The image after each scale."
    psnr: list[float]
    "How near each is to the image, in dB."
    norms: list[float]
    "Root mean square of the residual of the latents: at the start, and after each scale."
    likelihood: Tensor
    "log p of each token given the coarser scales and the class, (L,) nats."
    label: int
    "The likeliest class."
    crop: str = ""
    "What was cropped or resized, as a sentence."


@torch.no_grad()
def inspect_image(pipeline: VARPipeline, picture: Image.Image, label: int | None = None) -> Inspection:
    """Inspect an image, cropped to the model's size; `label` is its class, None takes the likeliest."""
    tokenizer = pipeline.tokenizer
    cropped = center_crop(picture, tokenizer.config.image_size)
    pixels = to_tensor([cropped]).to(pipeline.device)
    tokens = tokenizer.encode(pixels)
    features = tokenizer.features(pixels).float()
    states = list(tokenizer.quantizer.states(tokens))
    left = [features, *(features - state.accumulated for state in states)]
    decoded = [tokenizer.decode_each(state.accumulated) for state in states]
    stages = [to_images(one)[0] for one in decoded]
    near = [float(psnr(pixels[0], one[0].clamp(-1, 1))) for one in decoded]
    if label is None:
        unconditional = pipeline.transformer.config.unconditional
        found = pipeline.class_log_likelihoods(tokens)[0] if 0 < unconditional <= 100 else torch.empty(0)
        label = int(found.argmax()) if len(found) else int(unconditional)
    likelihood = pipeline.log_likelihood(tokens, [pipeline.class_or_none(label)])[0].cpu()
    norms = [float(rest.square().mean().sqrt()) for rest in left]
    shown = Image.fromarray(cropped)
    return Inspection(shown, tokens, stages, near, norms, likelihood, label, cropping(picture.size, shown.size))


def cropping(before: tuple[int, int], after: tuple[int, int]) -> str:
    """What was done to an image of a size (width, height) to have another one, as a sentence; empty for nothing."""
    if before == after:
        return ""
    sizes = f"{before[0]} x {before[1]} to {after[0]} x {after[1]} pixels"
    seen = min(before[0] / after[0], before[1] / after[1])
    width, height = round(seen * after[0]), round(seen * after[1])
    if (width, height) == before:
        return f"The image was resized from {sizes}."
    return f"The image was cropped to the {width} x {height} pixels in its middle, and resized from {sizes}."


def summary(inspection: Inspection, names: list[str]) -> str:
    """The class, and what the tokens cost; the last of the names is that of no class."""
    size = inspection.image.width * inspection.image.height
    bits = -float(inspection.likelihood.sum()) / 0.6931 / size
    cost = f"The tokens cost {bits:.3f} bits per pixel: what a code made for this model's guesses would need."
    return f"Class: **{names[min(inspection.label, len(names) - 1)]}**. {cost} {inspection.crop}".rstrip()


def codebook_usage(inspection: Inspection) -> list[list[str | int | float]]:
    """Per scale: its size, its number of tokens, of different codes, their perplexity, nats per token."""
    schedule, codes = inspection.tokens.schedule, int(inspection.tokens.packed.max()) + 1
    usage = CodebookUsage(len(schedule), codes, inspection.tokens.packed.device)
    usage.add(inspection.tokens)
    perplexity, different = usage.perplexity(), (usage.counts > 0).sum(dim=1)
    rows: list[list[str | int | float]] = []
    for k, (height, width) in enumerate(schedule):
        nats = -float(inspection.likelihood[schedule.slice(k)].mean())
        counts = [schedule.lengths[k], int(different[k]), round(float(perplexity[k]), 1)]
        rows.append([f"{height} x {width}", *counts, round(nats, 2)])
    return rows


def additions(inspection: Inspection) -> list[Image.Image]:
    """What each scale changes in the image: grey is nothing."""
    before = np.full_like(np.asarray(inspection.stages[0]), 127).astype(np.int16)
    shown = []
    for stage in inspection.stages:
        now = np.asarray(stage).astype(np.int16)
        shown.append(Image.fromarray(np.clip(127 + (now - before), 0, 255).astype(np.uint8)))
        before = now
    return shown


def heat(values: Tensor, schedule: ScaleSchedule, low: float, high: float) -> list[Image.Image]:
    """Values of all tokens (L,) as a map per scale, a pixel for a token: dark is `low`, bright is `high`."""
    level = ((values - low) / max(high - low, 1e-9)).clamp(0, 1)
    maps = [level[span].reshape(size) for span, size in zip(schedule.slices, schedule, strict=True)]
    return [Image.fromarray(coloured(one.numpy())) for one in maps]


def coloured(level: np.ndarray) -> np.ndarray:
    """Levels from 0 to 1 -> uint8 RGB from dark blue over violet and orange to pale yellow."""
    stops = np.array(STOPS, dtype=float)
    place = level * (len(stops) - 1)
    index = np.minimum(place.astype(int), len(stops) - 2)
    share = (place - index)[..., None]
    return (stops[index] * (1 - share) + stops[index + 1] * share).astype(np.uint8)


def mask_picture(schedule: ScaleSchedule, *, coarser: bool = True) -> Image.Image:
    """The attention mask: row by query, bright where it sees a key, lines between scales.

    Scales see themselves and the `coarser` ones, or themselves alone.
    """
    mask = schedule.mask(coarser=coarser).numpy()
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


def attention_of(pipeline: VARPipeline, inspection: Inspection, scale: int, row: int, column: int) -> Tensor:
    """How much the token at (row, column) of a scale looks at each token, over all blocks, (L,): the sum is 1."""
    schedule = inspection.tokens.schedule
    token = schedule.slice(scale).start + row * schedule[scale][1] + column
    model, classes = pipeline.editing_model, torch.tensor([inspection.label])
    if isinstance(model, ModelPair):
        model = model.at(scale)
    shares = attention_shares(model, pipeline.tokenizer.quantizer, inspection.tokens, classes)
    return torch.stack(shares)[:, 0, token].mean(dim=0)


@torch.no_grad()
def attention_shares(model: VAR, quantizer: ResidualQuantizer, tokens: TokenPyramid, classes: Tensor) -> list[Tensor]:
    """Per block, the mean over heads of softmax attention, (B, L, L) float32: rows are queries and sum to 1.

    Teacher forcing: each token sees its own scale and, as a rule, the coarser ones (paper, section 3.3).
    """
    shares: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, SelfAttention)
        query, key, _ = module.project(inputs[0])
        scores_BHLL = (query.float() @ key.float().transpose(-2, -1)) * module.softmax_scale
        shares.append(scores_BHLL.masked_fill(~model.mask, -torch.inf).softmax(dim=-1).mean(dim=1).cpu())

    hooks = [block.attention.register_forward_pre_hook(look) for block in model.blocks]
    try:
        model(teacher_inputs(model, quantizer, tokens.to(model.device)), classes.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return shares
