"""Torchvision classifiers as feature networks: weights, normalisation, layers."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_backbone(name: str, weights: str | Path = "") -> nn.Module:
    """A torchvision classifier with its ImageNet weights, or with those of a local state dict.

    Without `weights` torchvision fetches them into $TORCH_HOME/hub/checkpoints. Raises ValueError when the
    name is unknown or the weights cannot be had or do not fit.
    """
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(f"backbone {name!r} is not a torchvision model; for example mobilenet_v2, vgg16 or resnet50")
    if not weights:
        try:
            return get_model(name, weights="IMAGENET1K_V1").eval()
        except (KeyError, ValueError) as error:
            raise ValueError(f"torchvision has no ImageNet weights of {name}; give a file of them") from error
        except OSError as error:
            raise ValueError(
                f"the ImageNet weights of {name} could not be fetched ({error}); put torchvision's file into "
                "$TORCH_HOME/hub/checkpoints or give its path"
            ) from error
    model = get_model(name, weights=None)
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights}: not a state dict of torchvision's {name} ({reason})") from error
    return model.eval()


def imagenet_normalised(images: Tensor) -> Tensor:
    """Images in [-1, 1] to the mean and spread that torchvision's ImageNet weights expect, (B, 3, H, W)."""
    mean = images.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / std
