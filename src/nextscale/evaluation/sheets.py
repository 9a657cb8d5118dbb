"""Pictures of an evaluation: samples per class, and the real images nearest to some of them.

Shapes: n images shown, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.evaluation.image_sets import ImageSet, batches
from nextscale.evaluation.real import RealImages
from nextscale.evaluation.sets import squared_distances
from nextscale.pictures import grid, to_images

NEIGHBOURS = 6
"""Real images beside each one shown."""


def sample_sheet(images: Sequence[Image.Image], labels: Tensor) -> Image.Image:
    """One row per class where all classes have as many images, else a square."""
    order = labels.argsort(stable=True).tolist()
    counts = torch.unique(labels, return_counts=True)[1]
    columns = int(counts[0]) if len(counts) > 1 and (counts == counts[0]).all() else None
    return grid([images[row] for row in order], columns=columns)


def neighbour_sheet(images: Sequence[Image.Image], features: Tensor, split: RealImages, real: ImageSet) -> Image.Image:
    """Each image, then the real ones nearest to it in the features, nearest first: copies of those would show.

    `features` (n, D) are those of `images`.
    """
    size = images[0].height, images[0].width
    distances = torch.cat(list(squared_distances(features, split.reference.pooled)))
    nearest = distances.topk(min(NEIGHBOURS, distances.shape[1]), largest=False).indices
    places = split.indices[nearest.numpy()]  # (n, NEIGHBOURS)
    found = read_images(real, np.unique(places), size)
    rows = [[image, *(found[int(place)] for place in row)] for image, row in zip(images, places, strict=True)]
    return grid([image for row in rows for image in row], columns=1 + places.shape[1])


def read_images(images: ImageSet, indices: np.ndarray, size: tuple[int, int]) -> dict[int, Image.Image]:
    """Images by index, which are sorted and unique, resized to cover `size` and cropped."""
    pixels = torch.cat([part for part, _ in batches(images, size, batch_size=64, indices=indices)])
    return dict(zip(indices.tolist(), to_images(pixels), strict=True))
