"""The Inspect tab: an image's pyramid, what each scale adds, its codes, their likelihood, and attention.

Shapes: B batch, K scales, L tokens, H heads, (h_k, w_k) grid of scale k, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from nextscale.data.decode import center_crop
from nextscale.families.pair import ModelPair
from nextscale.families.var import VAR
from nextscale.nn.attention import SelfAttention
from nextscale.pictures import grid, to_images, to_tensor
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.likelihood import teacher_inputs
from nextscale.studio.components import image_input, refuse_unreadable, shown_picture, uploaded
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.jobs import Job, Update
from nextscale.studio.pictures import clickable, strip
from nextscale.tokenizer.quantizer import CodebookUsage, ResidualQuantizer

CELL = 96
"""Pixels of the side of a scale's map."""
LIKELIEST = "(likeliest)"


@dataclass(frozen=True)
class Inspection:
    """An image and what is computed of it once."""

    image: Image.Image
    tokens: TokenPyramid
    stages: list[Image.Image]
    "The image after each scale."
    norms: list[float]
    "Root mean square of the residual of the latents: at the start, and after each scale."
    likelihood: Tensor
    "log p of each token given the coarser scales and the class, (L,) nats."
    label: int
    "The likeliest class."


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
    stages = [to_images(tokenizer.decode_each(state.accumulated))[0] for state in states]
    if label is None:
        unconditional = pipeline.transformer.config.unconditional
        found = pipeline.class_log_likelihoods(tokens)[0] if 0 < unconditional <= 100 else torch.empty(0)
        label = int(found.argmax()) if len(found) else int(unconditional)
    likelihood = pipeline.log_likelihood(tokens, [pipeline.class_or_none(label)])[0].cpu()
    norms = [float(rest.square().mean().sqrt()) for rest in left]
    return Inspection(Image.fromarray(cropped), tokens, stages, norms, likelihood, label)


def summary(inspection: Inspection, names: list[str]) -> str:
    """The class, and what the tokens cost; the last of the names is that of no class."""
    size = inspection.image.width * inspection.image.height
    bits = -float(inspection.likelihood.sum()) / 0.6931 / size
    return f"Class: **{names[min(inspection.label, len(names) - 1)]}**. The tokens cost {bits:.3f} bits per pixel."


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


def attention_of(pipeline: VARPipeline, inspection: Inspection, scale: int, row: int, column: int) -> Image.Image:
    """Where the token at (row, column) of a scale looks, over all blocks: a map per scale, brightest where most."""
    schedule = inspection.tokens.schedule
    token = schedule.slice(scale).start + row * schedule[scale][1] + column
    model, classes = pipeline.editing_model, torch.tensor([inspection.label])
    if isinstance(model, ModelPair):
        model = model.at(scale)
    shares = attention_shares(model, pipeline.tokenizer.quantizer, inspection.tokens, classes)
    seen = torch.stack(shares)[:, 0, token].mean(dim=0)
    return heat(seen.sqrt(), schedule, 0.0, float(seen.max().sqrt()))


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


def residual_plot(norms: Sequence[float], schedule: ScaleSchedule) -> Any:
    """Root mean square of the residual of the latents, from none of the scales to all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(norms)), norms, marker="o", color="#6b3fa0")
    axes.set_xticks(range(len(norms)), ["none", *(f"{height}x{width}" for height, width in schedule)])
    axes.set(xlabel="scales added up", ylabel="root mean square left")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure


def inspect_tab(page: PageJobs) -> None:
    """Upload at the left; the pyramid, its figures and maps at the right."""
    desk = page.desk
    schedule = desk.pipeline.schedule
    last = len(schedule)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = image_input(label="Image", height=300, elem_id="inspect-image")
            name = gr.Dropdown([LIKELIEST, *desk.class_choices], value=LIKELIEST, label="Class given to the model")
            start = gr.Button("Inspect", variant="primary", elem_id="inspect-start")
            status = gr.Markdown("Upload an image to look into its pyramid.", elem_id="inspect-status")
            coarser = desk.pipeline.editing_model.config.sees_coarser
            seen_by_all = "itself and the coarser ones" if coarser else "itself alone"
            mask = mask_picture(schedule, coarser=coarser)
            shown_picture(f"Attention mask: each scale sees {seen_by_all}", value=mask, buttons=[])
        with gr.Column(scale=2, min_width=300):
            step = gr.Slider(1, last, value=last, step=1, label="Scales added up", elem_id="inspect-step")
            stage = shown_picture(
                "The image after that scale: click a token to see where it looks", elem_id="inspect-stage"
            )
            attention = shown_picture(
                "Attention of the clicked token, coarse to fine", wide=True, elem_id="inspect-attention"
            )
            pyramid = shown_picture("After each scale", wide=True)
            added = shown_picture("What each scale adds (grey: nothing)", wide=True)
            likelihood = shown_picture("How expected each token is (bright: likely)", wide=True)
    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("Latents still unexplained", elem_classes="title")
            residuals = gr.Plot(show_label=False, elem_id="inspect-residuals", elem_classes="chart")
        headers = ["scale", "tokens", "codes used", "perplexity", "nats/token"]
        codes = gr.Dataframe(headers=headers, label="Codes", interactive=False, elem_id="inspect-codes")
    found = gr.State(None)
    refuse_unreadable(picture)

    def work(job: Job, file: str | None, name: str) -> Iterator[Update]:
        if file is None:
            raise ValueError("there is no image yet: upload one")
        yield {status: "Reading its tokens ..."}
        label = None if name == LIKELIEST else desk.pipeline.class_ids(desk.label_of(name))[0]
        seen = inspect_image(desk.pipeline, uploaded(file), label)
        yield {
            found: seen,
            status: summary(seen, desk.class_choices),
            step: last,
            stage: clickable(seen.stages[-1]),
            attention: None,
            pyramid: strip([[one] for one in seen.stages]),
            added: additions(seen),
            likelihood: heat(seen.likelihood, schedule, -8.0, 0.0),
            residuals: residual_plot(seen.norms, schedule),
            codes: codebook_usage(seen),
        }

    outputs = [found, step, stage, pyramid, added, likelihood, residuals, codes, attention]
    page.job("Inspect", start, None, status, work, [picture, name], outputs)

    def show(seen: Inspection | None, chosen: float) -> Image.Image | None:
        return clickable(seen.stages[int(chosen) - 1]) if seen else None

    step.change(show, [found, step], stage, queue=False, **QUIET)

    @errors_as_messages
    def look(seen: Inspection | None, chosen: float, event: gr.SelectData) -> Any:
        if seen is None:
            return gr.skip()
        scale = int(chosen) - 1
        height, width = schedule[scale]
        shown = clickable(seen.stages[scale])
        column = min(width - 1, int(event.index[0] * width / shown.width))
        row = min(height - 1, int(event.index[1] * height / shown.height))
        with desk.visitors.line.turn():
            return attention_of(desk.pipeline, seen, scale, row, column)

    stage.select(look, [found, step], attention, show_progress="minimal", api_visibility="private")
