"""Watches models of one step for mode collapse while they train: how many kinds of images they still make.

Shapes: N images, D features, (H, W) pixels.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.data.loader import NO_CLASS
from nextscale.evaluation.metrics import compare_manifolds
from nextscale.nn.perceptual import imagenet_normalised, weights_at_hand
from nextscale.pictures import to_tensor
from nextscale.pipeline import VARPipeline

logger = logging.getLogger("nextscale.training")

IMAGES = 256
"""Images of each side."""
FEWEST = 12
"""With fewer held-out images nothing is said: neighbours are counted among them."""
COLLAPSED = 0.05
"""Recall under which a model is said to have collapsed."""
BACKBONE = "mobilenet_v2"
"""Whose features are compared where its weights lie on this machine; nothing is fetched in a training."""
LEARNING = 0.2
"""Share of the steps in which a low recall is no sign: the model has not learned the images yet."""


class Watch:
    """Recall and coverage of a model's images against held-out ones, whose features are computed once."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """Real images (N, 3, H, W) in [-1, 1] and their classes (N,) in the model's numbering, `NO_CLASS` for none."""
        self.labels = labels
        self.network, self.of = feature_network()
        self.real = features(self.network, images)

    def figures(self, pipeline: VARPipeline) -> dict[str, float]:
        """Recall and coverage of as many images of the same classes, with seeds of their own."""
        wanted = [None if label == NO_CLASS else label for label in self.labels.tolist()]
        drawn = pipeline.generate(wanted, seeds=range(len(wanted)))
        found = compare_manifolds(features(self.network, to_tensor(drawn.images)), self.real)
        return {"recall": found.recall, "coverage": found.coverage}

    def line(self, figures: dict[str, Any]) -> str:
        """The figures in a line."""
        return f"recall {figures['recall']:.1%}, coverage {figures['coverage']:.1%} of {len(self.real)} ({self.of})"


def warn_of_collapse(figures: dict[str, Any], done: int, steps: int) -> None:
    """Warn where recall is under `COLLAPSED`, once a model should have learned the images."""
    if done >= LEARNING * steps and figures["recall"] < COLLAPSED:
        logger.warning(
            "step %d: mode collapse? recall is %.1f%%, under %.0f%%: few held-out images are like any that is made",
            done,
            100 * figures["recall"],
            100 * COLLAPSED,
        )


@lru_cache(maxsize=1)
def feature_network() -> tuple[nn.Module, str]:
    """The network whose features are compared, on the CPU, and what it is called."""
    if weights_at_hand(BACKBONE):
        from nextscale.evaluation.features import FeatureNetwork

        return FeatureNetwork(BACKBONE), f"{BACKBONE} features"
    return RandomFeatures(), "features of random filters"


class RandomFeatures(nn.Module):
    """Means and deviations of the responses of random filters at three sizes: colours and textures, no objects."""

    def __init__(self, filters: int = 64) -> None:
        super().__init__()
        weight = torch.randn(filters, 3, 5, 5, generator=torch.Generator().manual_seed(0)) / 75**0.5
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, 6 filters) float32."""
        found, seen = [], imagenet_normalised(images)
        for _ in range(3):
            responses = F.relu(F.conv2d(seen, self.get_buffer("weight"), padding=2)).flatten(2)
            found += [responses.mean(dim=2), responses.std(dim=2)]
            seen = F.avg_pool2d(seen, 2) if min(seen.shape[-2:]) > 1 else seen
        return torch.cat(found, dim=1)


@torch.no_grad()
def features(network: nn.Module, images: Tensor) -> Tensor:
    """Features (N, D) of images (N, 3, H, W) in [-1, 1], on the CPU."""
    return torch.cat([network(part.float().cpu()) for part in images.split(64)])
