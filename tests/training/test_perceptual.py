"""The perceptual distance's random shifts."""

import torch

from nextscale.training.perceptual import shifted


def test_both_batches_move_alike_with_mirrored_edges() -> None:
    torch.manual_seed(0)
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    seen = set()
    for _ in range(200):
        a, b = shifted((images, images + 1000), 2)
        assert torch.equal(a + 1000, b)
        padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[..., y : y + 8, x : x + 8], a)]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) == 25
