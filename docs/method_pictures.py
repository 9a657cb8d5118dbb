"""The pictures of docs/method.md, drawn with the bundled demo model: the same ones every time.

    python docs/method_pictures.py [NAMES] [--data data/procgen/heldout]

NAMES are those of `PICTURES` (all by default). With `--data`, what each scale leaves and what its tokens cost is
measured anew on held-out images and written to docs/results/method.json, from which the picture of residuals is drawn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image
from torch import Tensor

from nextscale import ScaleSchedule, VARPipeline
from nextscale.data.loader import iterate_images
from nextscale.data.source import open_source
from nextscale.pictures import to_float

DOCS = Path(__file__).parent
MEASURED = DOCS / "results" / "method.json"
SCALING = DOCS / "results" / "scaling.json"
FULL_SIZE = DOCS / "results" / "full-size.json"
INK, GREY, PALE = "#222222", "#767676", "#e9e9e9"
ACCENT = "#d1495b"
"""What is not next-scale prediction: raster order, holes."""
CLASS = "#c77800"
"""The class, and what depends on it."""
TIMES = "\N{MULTIPLICATION SIGN}"
DPI = 100
HELDOUT = 2000
"""Images that are measured."""


@cache
def demo(name: str = "demo") -> VARPipeline:
    return VARPipeline.from_pretrained(name, device="cpu", dtype="fp32")


def shade(scale: int, scales: int) -> str:
    """A scale's colour in all pictures: dark is coarse."""
    return to_hex(colormaps["viridis"](0.06 + 0.72 * scale / (scales - 1)))


DRAWN = ("#ffffff", INK, GREY, PALE, ACCENT, CLASS, *(shade(scale, 7) for scale in range(7)))


def sized(size: tuple[int, int]) -> str:
    return f"{size[0]}{TIMES}{size[1]}"


@dataclass
class Sheet:
    """A white sheet to draw on in pixels, from its upper left corner."""

    width: int
    height: int

    def __post_init__(self) -> None:
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, size: float = 18, **how: Any) -> None:
        """Centred unless told otherwise; the size in points."""
        self.axes.text(x, y, text, **{"fontsize": size, "ha": "center", "va": "center", "color": INK} | how)

    def image(self, x: float, y: float, picture: Image.Image | np.ndarray, side: int) -> None:
        """Pixels as squares; the side should be a multiple of the picture's."""
        self.axes.imshow(np.asarray(picture), extent=(x, x + side, y + side, y), interpolation="nearest", zorder=2)
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))

    def cells(self, x: float, y: float, colours: np.ndarray, side: float, edge: str = "white") -> None:
        """A map (h, w, 3) as squares with lines between them."""
        height, width = colours.shape[:2]
        cell = side / max(height, width)
        for row, column in np.ndindex(height, width):
            corner = (x + column * cell, y + row * cell)
            self.box(corner[0], corner[1], cell, cell, to_hex(tuple(colours[row, column])), edge=edge)

    def box(self, x: float, y: float, width: float, height: float, colour: str, edge: str = "none", line=1.0) -> None:
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=edge, linewidth=line))

    def panel(self, x: float, y: float, width: float, height: float, colour: str, edge: str = "none") -> None:
        """A box with round corners."""
        shape = FancyBboxPatch((x + 8, y + 8), width - 16, height - 16, boxstyle="round,pad=8,rounding_size=8")
        shape.set(facecolor=colour, edgecolor=edge, linewidth=1.2)
        self.axes.add_patch(shape)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str = GREY) -> None:
        how = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        self.axes.add_patch(FancyArrowPatch(start, end, color=colour, **how))

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        self.axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, solid_joinstyle="round")

    def save(self, path: Path) -> None:
        save(self.figure, path)


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours, a third of the size: those of the drawing as they are, the nearest for all others."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    picture = Image.open(drawn).convert("RGB")
    exact = np.array([tuple(bytes.fromhex(colour[1:])) for colour in DRAWN], dtype=np.uint8)
    reduced = picture.quantize(256 - len(exact), dither=Image.Dither.NONE)
    indices = np.array(reduced) + len(exact)
    for index, colour in enumerate(exact):
        indices[(np.array(picture) == colour).all(axis=-1)] = index
    finished = Image.fromarray(indices.astype(np.uint8), mode="P")
    finished.putpalette([*exact.flatten().tolist(), *(reduced.getpalette() or [])][:768])
    finished.save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


def generated(name: str, seed: int) -> Image.Image:
    return demo().generate(name, seeds=[seed]).images[0]


def pixels(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])


def shown(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [-1, 1] -> (H, W, 3) bytes."""
    return ((image[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


class CodeColours:
    """Colours for vectors of the codes' space: similar codes get similar colours (three principal directions)."""

    def __init__(self, vectors: Tensor) -> None:
        """From vectors (N, C)."""
        self.mean = vectors.mean(dim=0)
        _, _, directions = torch.linalg.svd(vectors - self.mean, full_matrices=False)
        signs = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
        self.directions = (directions * signs)[:3]
        self.spread = ((vectors - self.mean) @ self.directions.t()).std(dim=0)

    def __call__(self, features: Tensor) -> np.ndarray:
        """(1, C, h, w) -> (h, w, 3) from 0 to 1."""
        values = (features[0].permute(1, 2, 0) - self.mean) @ self.directions.t() / self.spread
        return (0.5 + 0.24 * values).clamp(0.03, 0.97).numpy()


STRIP = (("starpilot", 3), ("heist", 0), ("leaper", 8), ("bossfight", 8))


def coarse_to_fine(path: Path) -> None:
    """Images as they stand after every scale of their generation."""
    schedule, tile, gap, left, top = demo().schedule, 192, 8, 60, 84
    sheet = Sheet(left + len(schedule) * (tile + gap), top + len(STRIP) * (tile + gap))
    for scale, size in enumerate(schedule):
        x = left + scale * (tile + gap)
        sheet.text(x + tile / 2, 28, ("" if scale == 0 else "+ ") + sized(size), 20, weight="bold")
        count = schedule.lengths[scale]
        sheet.text(x + tile / 2, 60, f"{count} token{'s' * (count > 1)}", 15, color=GREY)
        sheet.box(x, 76, tile, 4, shade(scale, len(schedule)))
    for row, (name, seed) in enumerate(STRIP):
        y = top + row * (tile + gap)
        sheet.text(left / 2, y + tile / 2, name, 18, rotation=90)
        for step in demo().generate_steps([name], seeds=[seed]):
            sheet.image(left + step.scale * (tile + gap), y, step.preview()[0], tile)
    sheet.save(path)


def passes(path: Path) -> None:
    """Raster order and next-scale prediction side by side, pass by pass."""
    tile, gap, left = 128, 8, 216
    raster = list(demo("demo-raster").generate_steps(["bigfish"], seeds=[10]))
    scales = list(demo().generate_steps(["bigfish"], seeds=[4]))
    rows, columns = demo("demo-raster").schedule.final
    sheet = Sheet(left + rows * (tile + gap), 2 * (tile + 60))
    partly = [blanked(step.preview()[0], (step.scale + 1) / rows) for step in raster]
    lines = (
        ("raster order", ACCENT, [(step.scale + 1) * columns for step in raster], partly),
        ("next scale", shade(1, 7), [step.scale + 1 for step in scales], [step.preview()[0] for step in scales]),
    )
    for row, (title, colour, counts, images) in enumerate(lines):
        y = row * (tile + 60)
        sheet.text(left - 20, y + 40 + tile / 2 - 16, title, 19, ha="right", weight="bold", color=colour)
        sheet.text(left - 20, y + 40 + tile / 2 + 16, f"{counts[-1]} passes", 16, ha="right", color=GREY)
        for place, (count, image) in enumerate(zip(counts, images, strict=True)):
            x = left + place * (tile + gap)
            sheet.text(x + tile / 2, y + 22, f"after {count}" if place == 0 else str(count), 16, color=GREY)
            sheet.image(x, y + 40, image, tile)
    sheet.save(path)


def blanked(image: Image.Image, known: float) -> np.ndarray:
    """An image without what lies below its known share."""
    picture = np.array(image)
    picture[round(known * len(picture)) :] = tuple(bytes.fromhex(PALE[1:]))
    return picture


def pyramid(path: Path) -> None:
    """Token maps of one image, what each scale adds, and what has been added so far."""
    pipe = demo()
    quantizer, schedule = pipe.tokenizer.quantizer, pipe.schedule
    image = generated("leaper", 8)
    tokens = pipe.tokenizer.encode(pixels(image))
    with torch.no_grad():
        states = list(quantizer.states(tokens))
    codes = torch.cat([quantizer.lookup(tokens[k]).flatten(2)[0].t() for k in range(len(schedule))]).detach()
    colours = CodeColours(codes)
    images = [pipe.tokenizer.decode_features(quantizer.zeros(1)), *pipe.tokenizer.decode_scales(tokens)]
    tile, gap, left, top = 192, 12, 190, 84
    sheet = Sheet(left + len(schedule) * (tile + gap), top + 3 * (tile + gap + 8))
    for row, (title, note) in enumerate(
        (("token map", "each cell one\nof 1,024 codes"), ("what it\nchanges", "grey: nothing"), ("image\nso far", ""))
    ):
        y = top + row * (tile + gap + 8)
        lines = title.count("\n") + 1
        sheet.text(left - 18, y + tile / 2 - 16, title, 19, ha="right", weight="bold")
        sheet.text(left - 18, y + tile / 2 + 12 + 14 * lines, note, 14, ha="right", color=GREY)
    for scale, size in enumerate(schedule):
        x = left + scale * (tile + gap)
        sheet.text(x + tile / 2, 30, f"$r_{scale + 1}$:  {sized(size)}", 20)
        sheet.box(x, 66, tile, 4, shade(scale, len(schedule)))
        sheet.cells(x, top, colours(states[scale].embeddings), tile)
        change = images[scale + 1] - images[scale]
        sheet.image(x, top + tile + gap + 8, shown(change), tile)
        sheet.image(x, top + 2 * (tile + gap + 8), shown(images[scale + 1]), tile)
        if size[0] <= 3:
            numbers, cell = tokens[scale][0], tile / size[0]
            for row, column in np.ndindex(*size):
                at = (x + (column + 0.5) * cell, top + (row + 0.5) * cell)
                sheet.text(*at, str(int(numbers[row, column])), 24 - 3 * size[0], color="white", weight="bold")
    sheet.save(path)


def mask(path: Path) -> None:
    """Who sees whom: the block-wise causal mask beside raster order's."""
    schedule, side, left, top = demo().schedule, 620, 150, 140
    sheet, unit = Sheet(1280, top + side + 16), side / schedule.length
    sheet.text(left + side / 2, 30, "next scale: 155 tokens, 7 blocks", 21, weight="bold")
    sheet.text(left + side / 2, 68, "seen (keys)", 17, color=GREY)
    sheet.text(28, top + side / 2, "predicted (queries)", 17, color=GREY, rotation=90)
    sheet.box(left, top, side, side, PALE)
    for scale, part in enumerate(schedule.slices):
        height = (part.stop - part.start) * unit
        sheet.box(left, top + part.start * unit, part.stop * unit, height, shade(scale, len(schedule)))
        if schedule[scale][0] >= 3:
            middle = part.start * unit + height / 2
            sheet.text(left - 10, top + middle, sized(schedule[scale]), 16, ha="right")
            sheet.text(left + middle, top - 18, sized(schedule[scale]), 16 if height > 70 else 12)
    sheet.text(left - 10, top + 8, f"{sized(schedule[0])}, {sized(schedule[1])}", 13, ha="right")
    for end in schedule.ends[:-1]:
        sheet.axes.plot([left + end * unit] * 2, [top, top + side], color="white", linewidth=1.2)
        sheet.axes.plot([left, left + side], [top + end * unit] * 2, color="white", linewidth=1.2)
    tokens = schedule.lengths[-1]
    x, small = left + side + 170, tokens * unit
    sheet.text(x + small / 2, 30, f"raster order: {tokens} tokens", 21, weight="bold")
    sheet.text(x + small / 2, 68, f"{tokens} blocks of one", 17, color=GREY)
    sheet.box(x, top, small, small, PALE)
    for token in range(tokens):
        sheet.box(x, top + token * unit, (token + 1) * unit, unit + 0.5, ACCENT)
    for row, (colours, meaning) in enumerate((([shade(2, 7), shade(5, 7), ACCENT], "is seen"), ([PALE], "is hidden"))):
        for place, colour in enumerate(colours):
            sheet.box(x + 34 * place, top + small + 70 + 54 * row, 28, 28, colour)
        sheet.text(x + 116, top + small + 84 + 54 * row, meaning, 18, ha="left")
    sheet.save(path)


def residuals(path: Path) -> None:
    """How much of the latents is left after each scale."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    left, sizes = [1.0, *measured["left"]], ["before", *measured["scales"]]
    scales = len(measured["scales"])
    figure = Figure(figsize=(12, 5.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    colours = [GREY, *(shade(k, scales) for k in range(scales))]
    axes.bar(range(len(left)), left, color=colours, width=0.72)
    for place, share in enumerate(left):
        axes.text(place, share + 0.02, f"{share:.0%}", ha="center", fontsize=18, color=INK)
    axes.set_xticks(range(len(left)), [sizes[0], *(("" if k == 0 else "+ ") + s for k, s in enumerate(sizes[1:]))])
    axes.tick_params(labelsize=18, length=0)
    axes.set_yticks([])
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("left to explain:  $\\|f - \\hat f_k\\|^2\\; /\\; \\|f\\|^2$", fontsize=18)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save(figure, path)


def measure(data: str) -> None:
    """Write what each scale leaves of the latents of held-out images, and what its tokens cost the transformer."""
    pipe = demo()
    quantizer, schedule = pipe.tokenizer.quantizer, pipe.schedule
    source = open_source(data)
    chosen = list(range(0, len(source), len(source) // HELDOUT))[:HELDOUT]
    rest, nats, total = torch.zeros(len(schedule)).double(), torch.zeros(schedule.length).double(), 0.0
    for batch in iterate_images(source, pipe.tokenizer.config.image_size, batch_size=50, indices=chosen):
        with torch.no_grad():
            features = pipe.tokenizer.features(to_float(batch.images))
            tokens = quantizer.encode(features)
            left = [(features - state.accumulated).double().square().sum() for state in quantizer.states(tokens)]
        names = [source.class_names[label] for label in batch.labels.tolist()]
        nats -= pipe.log_likelihood(tokens, names).double().sum(dim=0)
        rest += torch.stack(left)
        total += float(features.double().square().sum())
    figures = {
        "model": "demo", "images": len(chosen), "scales": [sized(size) for size in schedule],
        "left": [round(float(value), 4) for value in rest / total],
        "nats": [round(float(nats[part].mean()) / len(chosen), 3) for part in schedule.slices],
        "nats_of_all": round(float(nats.mean()) / len(chosen), 3),
    }  # fmt: skip
    MEASURED.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def scaling(path: Path) -> None:
    """The loss of five depths, and what the four smaller ones foretell of the largest."""
    runs = [run for run in json.loads(SCALING.read_text(encoding="utf-8"))["results"] if run["kind"] == "var"]
    sizes, losses = (np.array([run[name] for run in runs]) for name in ("parameters", "loss"))
    law = np.poly1d(np.polyfit(np.log(sizes[:-1]), np.log(losses[:-1]), 1))
    figure = Figure(figsize=(11, 5.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    across = np.array([sizes[0] * 0.7, sizes[-1] * 1.5])
    axes.plot(across, np.exp(law(np.log(across))), color=GREY, linewidth=2, linestyle=(0, (5, 3)))
    axes.plot(sizes, losses, "o", color=shade(1, 7), markersize=15)
    for run, size, loss in zip(runs, sizes, losses, strict=True):
        note = {"textcoords": "offset points", "fontsize": 18, "color": INK}
        axes.annotate(f"depth {run['depth']}:  {loss:.2f}", (size, loss), (14, 8), **note)
    axes.set(xscale="log", yscale="log", xlim=(across[0], across[1] * 2.6), ylim=(losses[-1] * 0.96, losses[0] * 1.06))
    axes.set_xticks([1e5, 1e6, 1e7], ["0.1 million", "1 million", "10 million"])
    axes.set_yticks([])
    axes.set_yticks([], minor=True)
    axes.tick_params(labelsize=18)
    axes.set_xlabel("parameters", fontsize=18)
    axes.set_ylabel("loss, nats per token", fontsize=18)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


OFFICIAL = ScaleSchedule([1, 2, 3, 4, 5, 6, 8, 10, 13, 16])


def work() -> list[tuple[str, float, float]]:
    """What an image of 16 x 16 latents costs, raster order's and next-scale's: computed, the seconds measured."""
    tokens = OFFICIAL.final[0] * OFFICIAL.final[1]
    seen = sum(length * end for length, end in zip(OFFICIAL.lengths, OFFICIAL.ends, strict=True))
    models = {
        (model["name"], model["size"]): model for model in json.loads(FULL_SIZE.read_text(encoding="utf-8"))["models"]
    }
    measured = {name: models[name, 256] for name in ("raster-d16", "var-d16")}
    assert (measured["raster-d16"]["steps"], measured["var-d16"]["steps"]) == (tokens, len(OFFICIAL))
    return [
        ("passes", tokens, len(OFFICIAL)),
        ("tokens", tokens, OFFICIAL.length),
        ("query-key pairs", tokens * (tokens + 1) // 2, seen),
        ("seconds", measured["raster-d16"]["seconds"], measured["var-d16"]["seconds"]),
    ]


def speed(path: Path) -> None:
    """Raster order beside next scale: passes, tokens, attention, seconds."""
    figure = Figure(figsize=(13, 5), dpi=DPI)
    panels = figure.subplots(1, 4, gridspec_kw={"wspace": 0.16})
    figure.subplots_adjust(left=0.01, right=0.99, top=0.79, bottom=0.15)
    figure.suptitle(f"one image of {sized((256, 256))} pixels, depth 16", fontsize=18, color=GREY, y=0.97)
    for axes, (title, raster, scales) in zip(panels, work(), strict=True):
        axes.bar([0, 1], [raster, scales], color=[ACCENT, shade(2, 7)], width=0.7)
        for place, value in enumerate((raster, scales)):
            text = f"{value:,}" if isinstance(value, int) else f"{value:.1f}"
            axes.text(place, value + 0.03 * max(raster, scales), text, ha="center", fontsize=19, color=INK)
        axes.set_xticks([0, 1], ["raster\norder", "next\nscale"])
        axes.tick_params(labelsize=17, length=0)
        axes.set_yticks([])
        axes.set_ylim(0, 1.15 * max(raster, scales))
        axes.set_title(title, fontsize=20, pad=16, color=INK, weight="bold")
        axes.spines[["top", "right", "left"]].set_visible(False)
    save(figure, path)


HOLES = (("bigfish", 4, (0, 32, 40, 64), 3), ("chaser", 5, (20, 8, 56, 44), 0), ("bossfight", 7, (16, 16, 48, 48), 3))
"""Class, seed, hole (left, top, right, bottom) and seed of what fills it."""


def inpainting(path: Path) -> None:
    """A hole filled by a model that was never taught to."""
    pipe, tile, gap, top = demo(), 128, 8, 70
    columns = ["image", "hole", *(("" if k == 0 else "+ ") + sized(size) for k, size in enumerate(pipe.schedule))]
    sheet = Sheet(len(columns) * (tile + gap) + 16, top + len(HOLES) * (tile + gap))
    places = [place * (tile + gap) + (24 if place > 1 else 0) for place in range(len(columns))]
    for place, (x, title) in enumerate(zip(places, columns, strict=True)):
        sheet.text(x + tile / 2, 28, title, 17, weight="bold")
        sheet.box(x, 56, tile, 4, shade(place - 2, len(pipe.schedule)) if place > 1 else GREY)
    for row, (name, seed, hole, filling) in enumerate(HOLES):
        y = top + row * (tile + gap)
        image = generated(name, seed)
        sheet.image(places[0], y, image, tile)
        cut = np.array(image)
        cut[hole[1] : hole[3], hole[0] : hole[2]] = 255
        sheet.image(places[1], y, cut, tile)
        for step in pipe.edit_steps(pipe.editor(image, [hole]), classes=name, seeds=[filling]):
            sheet.image(places[2 + step.scale], y, step.images()[0], tile)
    sheet.save(path)


def inputs(path: Path) -> None:
    """What the transformer reads and gives, scale by scale."""
    pipe, columns = demo(), (0, 1, 2, 6)
    schedule, width, depth = pipe.schedule, pipe.transformer.config.width, pipe.transformer.config.depth
    tokens = pipe.tokenizer.encode(pixels(generated("leaper", 8)))
    with torch.no_grad():
        states = list(pipe.tokenizer.quantizer.states(tokens))
        images = list(pipe.tokenizer.decode_scales(tokens))
    features = CodeColours(torch.cat([state.accumulated.flatten(2)[0].t() for state in states]))
    codes = CodeColours(torch.cat([state.embeddings.flatten(2)[0].t() for state in states]))
    tile, box, left, pitch = 128, 180, 290, 256
    so_far, small, reads, blocks, maps = 60, 236, 412, 524, 744  # where rows begin
    sheet = Sheet(left + len(columns) * pitch - 40, maps + tile + 96)
    for y, title, note in (
        (so_far + tile / 2, "accumulated", "$\\hat f_{k-1}$:  (32, 8, 8)"),
        (small + tile / 2, "downsampled", "(32, $h_k$, $w_k$)"),
        (reads + 24, "tokens", f"Linear 32→{width},\n+ level + position"),
        (blocks + 50, f"{depth} blocks", "attention and\nfeed-forward"),
        (maps + tile / 2, "predicted", "$r_k$:  ($h_k$, $w_k$)"),
    ):
        sheet.text(left - 44, y - 14, title, 19, ha="right", weight="bold")
        sheet.text(left - 44, y + 18 + 13 * note.count("\n"), note, 16, ha="right", color=GREY)
    rail = blocks + 170
    sheet.line([(left, small + tile / 2), (left - 22, small + tile / 2), (left - 22, rail)], CLASS)
    sheet.line([(left - 22, rail), (left + (len(columns) - 1) * pitch + 30, rail)], CLASS)
    sheet.text(left - 44, rail - 26, "AdaLN by the class:", 16, ha="right", color=CLASS)
    sheet.text(left - 44, rail, "scale, shift, gate", 16, ha="right", color=CLASS)
    for place, scale in enumerate(columns):
        x, colour, count = left + place * pitch, shade(scale, len(schedule)), schedule.lengths[scale]
        middle = x + box / 2
        sheet.text(middle, 26, f"scale {scale + 1}:  {sized(schedule[scale])}", 18, weight="bold", color=colour)
        if scale == 0:
            sheet.panel(x, small, box, tile, "white", edge=CLASS)
            sheet.text(middle, small + 44, "class", 17, color=CLASS)
            sheet.text(middle, small + 82, "leaper", 20, weight="bold")
            sheet.text(middle, so_far + tile / 2, "nothing yet", 16, color=GREY)
        else:
            sheet.image(middle - tile / 2, so_far, shown(images[scale - 1]), tile)
            sheet.arrow((middle, so_far + tile + 2), (middle, small - 2))
            reduced = torch.nn.functional.interpolate(states[scale - 1].accumulated, size=schedule[scale], mode="area")
            sheet.cells(middle - tile / 2, small, features(reduced), tile)
        sheet.arrow((middle, small + tile + 2), (middle, reads - 2))
        for start, end in pairwise(np.linspace(x, x + box, count + 1)):
            sheet.box(start, reads, (end - start) - min(3, 0.3 * (end - start)), 56, colour)
        sheet.arrow((middle, reads + 58), (middle, blocks - 2))
        sheet.panel(x, blocks, box, 130, PALE)
        sheet.text(middle, blocks + 42, "sees scales" if scale else "sees scale", 17, color=GREY)
        sheet.text(middle, blocks + 84, f"1 to {scale + 1}" if scale else "1", 22, weight="bold")
        sheet.arrow((x + 30, rail), (x + 30, blocks + 132), CLASS)
        sheet.arrow((middle, blocks + 132), (middle, maps - 2))
        sheet.cells(middle - tile / 2, maps, codes(states[scale].embeddings), tile)
        if place + 1 < len(columns):
            turn, high, low = x + (box + pitch) / 2, so_far + tile / 2, maps + tile / 2
            following = columns[place + 1] == scale + 1
            sheet.line([(middle + tile / 2 + 6, low), (turn, low), (turn, high if following else high + 60)], INK)
            if following:
                sheet.arrow((turn, high), (middle + pitch - tile / 2 - 2, high), INK)
            else:
                sheet.text(turn, high + 40, "…", 24)
    note = f"look up the codes, upsample to {sized(schedule.final)}, refine by φ, add: what the next scale reads"
    sheet.text(sheet.width / 2, maps + tile + 52, note, 18, color=INK)
    sheet.save(path)


PICTURES = {
    "passes": passes, "coarse-to-fine": coarse_to_fine, "pyramid": pyramid, "mask": mask, "residuals": residuals,
    "scaling": scaling, "speed": speed, "inpainting": inpainting, "inputs": inputs,
}  # fmt: skip


def main(names: Sequence[str] = (), /, *, data: str = "", out: Path = DOCS / "images") -> None:
    """Draw all pictures, or those named."""
    if data:
        measure(data)
    for name in names or PICTURES:
        PICTURES[name](out / f"method-{name}.png")


if __name__ == "__main__":
    cyclopts.run(main)
