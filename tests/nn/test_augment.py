"""Augmentations that are seen, as often as they should be, and that pass gradients."""

import torch

from nextscale.nn.augment import augmented, cut_out, translated


def test_shifts_move_and_holes_cover() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 16, 16) + 1
    moved = translated(images)
    assert moved.shape == images.shape
    found = 0
    for down in range(-2, 3):
        for right in range(-2, 3):
            rolled = images.roll((down, right), dims=(2, 3))
            same = (moved[:, :, 2:-2, 2:-2] == rolled[:, :, 2:-2, 2:-2]).all(dim=(1, 2, 3)).sum().item()
            assert same > 0, "every shift comes up"
            found += same
    assert found == 64
    holes = (cut_out(images) == 0)[:, 0]
    assert holes.any(dim=(1, 2)).all()
    assert holes.flatten(1).sum(dim=1).max() == 8 * 8
    assert holes.flatten(1).sum(dim=1).min() < 8 * 8, "at an edge part of it lies outside"


def test_augmented_images_are_told_apart_and_pass_gradients() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 16, 16, requires_grad=True)
    one, two = augmented([images, images])
    assert not torch.equal(one, two)
    one.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_probability_says_how_many_images_are_changed() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 3, 8, 8)
    assert augmented([images], 0.0)[0] is images
    (seen,) = augmented([images], 0.2)
    unchanged = (seen == images).flatten(1).all(dim=1).float().mean().item()
    assert abs(unchanged - 0.8**3) < 0.1, "each of three changes spares 80 %"
