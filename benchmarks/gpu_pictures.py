"""Pictures made of nothing, for machines that have no data: shapes of ten classes on shaded grounds."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("disc", "ring", "square", "frame", "triangle", "cross", "bar", "dots", "half", "star")
"""The classes."""


def picture(label: int, number: int, side: int = 64) -> Image.Image:
    """A shape of a class, its place, size and colours drawn from (label, number)."""
    random = np.random.default_rng([label, number])
    low, high = random.integers(0, 256, (2, 3))
    along = np.linspace(0, 1, side)
    weights = np.outer(along, np.ones(side)) if random.random() < 0.5 else np.outer(np.ones(side), along)
    ground = low + (high - low) * weights[..., None] + random.normal(0, 4, (side, side, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    radius = side * random.uniform(0.15, 0.35)
    x, y = random.uniform(radius, side - radius, 2)
    colour = tuple(int(value) for value in random.integers(0, 256, 3))
    draw_shape(ImageDraw.Draw(image), SHAPES[label], x, y, radius, colour)
    return image


def draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, colour: tuple[int, ...]
) -> None:
    """One shape around (x, y)."""
    box = (x - radius, y - radius, x + radius, y + radius)
    width = max(2, int(radius / 3))
    match shape:
        case "disc":
            draw.ellipse(box, fill=colour)
        case "ring":
            draw.ellipse(box, outline=colour, width=width)
        case "square":
            draw.rectangle(box, fill=colour)
        case "frame":
            draw.rectangle(box, outline=colour, width=width)
        case "cross":
            draw.line((x - radius, y, x + radius, y), fill=colour, width=width)
            draw.line((x, y - radius, x, y + radius), fill=colour, width=width)
        case "bar":
            draw.rectangle((x - radius, y - width, x + radius, y + width), fill=colour)
        case "half":
            draw.pieslice(box, 0, 180, fill=colour)
        case "dots":
            for a, b in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
                u, v = x + a * radius / 2, y + b * radius / 2
                draw.ellipse((u - width, v - width, u + width, v + width), fill=colour)
        case "triangle" | "star":
            corners = 3 if shape == "triangle" else 10
            turns = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
            reach = np.where(np.arange(corners) % 2, 0.45 if shape == "star" else 1.0, 1.0) * radius
            points = zip(x + reach * np.cos(turns), y + reach * np.sin(turns), strict=True)
            draw.polygon([(float(u), float(v)) for u, v in points], fill=colour)
