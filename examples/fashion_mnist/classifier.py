"""Train a small classifier on images with classes; its features then measure generated ones.

    python examples/fashion_mnist/classifier.py --data data/fashion_mnist/train --heldout data/fashion_mnist/heldout
    nextscale compare MODELS --features resnet18 --feature-weights out/classifier.pth --data data/fashion_mnist/heldout

ImageNet's classifiers have not seen such images, and differences between them are small in their features. The file is
a plain state dict of a torchvision model, which `--judge` takes as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

from nextscale.data.loader import iterate_images
from nextscale.data.source import open_source
from nextscale.files import complete_file
from nextscale.nn.perceptual import imagenet_normalised
from nextscale.pictures import to_float
from nextscale.runtime import resolve_device


def read(data: str, side: int) -> tuple[Tensor, Tensor]:
    """All images (N, 3, side, side) uint8 and their classes (N,). Raises ValueError."""
    batches = list(iterate_images(open_source(data), (side, side), batch_size=500))
    images, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "labels"))
    if labels.min() < 0:
        raise ValueError(f"{data}: some images have no class")
    return images, labels


def shown(images: Tensor, device: torch.device) -> Tensor:
    """Images as the features of nextscale see them."""
    return imagenet_normalised(to_float(images.to(device)))


def train(network: nn.Module, images: Tensor, labels: Tensor, *, steps: int, batch: int, rate: float) -> None:
    """AdamW with one cycle of the learning rate; images are mirrored and moved by up to two pixels at random."""
    device = next(network.parameters()).device
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    network.train()
    for step in range(steps):
        chosen = torch.randint(len(images), (batch,))
        seen = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, images[chosen].flip(-1), images[chosen])
        down, right = torch.randint(-2, 3, (2,)).tolist()
        logits = network(shown(seen.roll((down, right), dims=(-2, -1)), device))
        loss = F.cross_entropy(logits, labels[chosen].to(device), label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose class is told right."""
    device = next(network.parameters()).device
    network.eval()
    told = torch.cat([network(shown(part, device)).argmax(dim=1).cpu() for part in images.split(500)])
    return (told == labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="data/fashion_mnist/train", help="images with classes, as nextscale reads them"
    )
    parser.add_argument("--heldout", default="data/fashion_mnist/heldout", help="others, to measure the accuracy")
    parser.add_argument("--out", type=Path, default=Path("out/classifier.pth"), help="file to write")
    parser.add_argument("--backbone", default="resnet18", help="torchvision classifier")
    parser.add_argument("--side", type=int, default=32, help="pixels of a side of the images")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    try:
        device = resolve_device(options.device)
        images, labels = read(options.data, options.side)
        others = read(options.heldout, options.side)
        network = get_model(options.backbone, weights=None, num_classes=int(labels.max()) + 1)
        network.to(device).to(memory_format=torch.channels_last)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    train(network, images, labels, steps=options.steps, batch=options.batch, rate=options.rate)
    print(f"{accuracy(network, *others):.4f} of {len(others[1]):,} held-out images are told right")
    with complete_file(options.out) as partial:
        torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, partial)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
