"""Judges of rejection sampling by name: the model's own likelihood, or a classifier.

Shapes: N candidates, C classes.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from nextscale.classes import imagenet_ids
from nextscale.environment import quiet_warnings
from nextscale.nn.perceptual import imagenet_normalised, load_backbone
from nextscale.sampling.rejection import Candidates, Judge, Rejection, likelihood_judge, likelihood_ratio_judge

LIKELIHOOD = {"likelihood": likelihood_judge, "likelihood-ratio": likelihood_ratio_judge}
"""The model's own judges."""

CLASSES = 1000
"""Classes of torchvision's own weights."""


class ClassifierJudge:
    """log of the probability that a classifier gives the candidate's class."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, candidates: Candidates) -> Tensor:
        images = candidates.images()
        logits = self.network.to(images.device)(imagenet_normalised(images))
        return logits.float().log_softmax(dim=1)[:, candidates.label]


def load_rejection(
    candidates: int, keep: int, judge: str, *, classes: int, class_names: Sequence[str] = ()
) -> Rejection | None:
    """What `--candidates`, `--keep` and `--judge` ask for; None for one candidate. Raises ValueError."""
    if candidates == keep == 1:
        return None
    chosen = load_judge(judge, classes=classes, class_names=class_names)
    return replace(Rejection(candidates=candidates, keep=keep), judge=chosen)


def load_judge(name: str, *, classes: int, class_names: Sequence[str] = ()) -> Judge:
    """`likelihood`, `likelihood-ratio`, a torchvision classifier or the file of one, which tell `classes` classes.

    A file names no classes: they are those of the model, in its order. Torchvision's own are ImageNet's. Raises
    ValueError.
    """
    if name in LIKELIHOOD:
        return LIKELIHOOD[name]
    from torchvision import models
    from torchvision.models import list_models

    path = Path(name)
    if path.is_file():
        network, known = classifier_of(path)
        require_classes(name, known, classes)
        return ClassifierJudge(network)
    if name not in list_models(module=models):
        raise ValueError(
            f"judge {name!r} is neither likelihood nor likelihood-ratio, nor a classifier of torchvision "
            "such as resnet50, nor a file"
        )
    require_classes(name, CLASSES, classes)
    if class_names and imagenet_ids(class_names) != list(range(CLASSES)):
        raise ValueError(
            f"judge {name}: tells ImageNet's classes in their order, the model's are others "
            f"({', '.join(class_names[:3])}, ...); give the file of a classifier of the model's classes"
        )
    return ClassifierJudge(load_backbone(name))


def require_classes(judge: str, known: int, classes: int) -> None:
    """Raises ValueError where a classifier tells another number of classes than the model has."""
    if known != classes:
        raise ValueError(
            f"judge {judge}: tells {known} classes, the model has {classes}; give a classifier of the model's classes"
        )


def classifier_of(path: Path) -> tuple[nn.Module, int]:
    """A torchvision classifier from its state dict, and how many classes it tells.

    The architecture is the one whose tensors have these names and, but for the last layer, these shapes.
    Raises ValueError.
    """
    from torchvision.models import get_model

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {key: tuple(value.shape) for key, value in state.items()}
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of weights ({str(error).splitlines()[0]})") from error
    classes = next((shape[0] for shape in reversed(shapes.values()) if shape), 0)
    inner = {key: shape[1:] for key, shape in shapes.items()}
    for name, wanted in architectures().items():
        if wanted != inner:
            continue
        network = get_model(name, weights=None, num_classes=classes)
        try:
            network.load_state_dict(state)
        except RuntimeError:
            continue
        return network, classes
    raise ValueError(f"{path}: holds the tensors of no torchvision classifier")


@lru_cache(maxsize=1)
def architectures() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes behind the first side of every tensor of torchvision's classifiers; RegNets compute while being built."""
    from torchvision import models
    from torchvision.models import get_model, list_models

    known = {}
    for name in list_models(module=models):
        with suppress(NotImplementedError), quiet_warnings(), torch.device("meta"):
            network = get_model(name, weights=None)
            known[name] = {key: tuple(value.shape)[1:] for key, value in network.state_dict().items()}
    return known
