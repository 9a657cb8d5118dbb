"""The counter-based noise: Philox as published, a function of seed and place alone, distributed as it should be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.config import TOP_SEED
from nextscale.sampling import noise as module
from nextscale.sampling.noise import CONFIDENCES, gumbel_noise, image_seeds, random_bits

CPU = torch.device("cpu")
MASK = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 (Salmon et al., 2011, section 3.3 and the authors' Random123), with Python's integers."""
    counter, key = list(counter), list(key)
    for _ in range(10):
        first, second = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [second >> 64 ^ counter[1] ^ key[0], second & MASK, first >> 64 ^ counter[3] ^ key[1], first & MASK]
        key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
    return counter


def test_the_reference_gives_the_published_answers() -> None:
    """Known answers of Random123 1.14, kat_vectors."""
    nothing = ["16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"]
    assert philox([0] * 4, [0] * 2) == [int(word, 16) for word in nothing]
    everything = ["87b092c3013fe90b", "438c3c67be8d0224", "9cc7d7c69cd777b6", "a09caebf594f0ba0"]
    assert philox([MASK] * 4, [MASK] * 2) == [int(word, 16) for word in everything]


def expected_bits(seed: int, stream: int, step: int, position: int, token: int, size: int) -> int:
    """31 bits of one token, as the module's words describe them."""
    place = position * (-(-size // 8) * 8) + token
    word = philox([place // 8 + 1, step, 0, 0], [seed, stream])[place % 8 // 2]  # numpy counts before it computes
    return (word >> 32 * (place % 2) & 0xFFFFFFFF) >> 1


@given(
    st.integers(0, TOP_SEED), st.sampled_from([0, 1, CONFIDENCES]), st.integers(0, 2**31 - 1), st.integers(1, 40),
    st.data(),
)  # fmt: skip
def test_bits_are_philox(seed: int, stream: int, step: int, size: int, data: st.DataObject) -> None:
    bits = random_bits([0, seed], step, 3, size, stream=stream)
    assert bits.shape == (2, 3, size) and bits.dtype == np.int32
    position, token = data.draw(st.integers(0, 2)), data.draw(st.integers(0, size - 1))
    assert bits[1, position, token] == expected_bits(seed, stream, step, position, token, size)


def test_noise_belongs_to_the_image() -> None:
    together = gumbel_noise(image_seeds([4, 7, 4], CPU), 2, 3, 5)
    assert torch.equal(together[1:2], gumbel_noise(torch.tensor([7]), 2, 3, 5))
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[:, :2], gumbel_noise(torch.tensor([4, 7, 4]), 2, 2, 5)), "however many positions"


def test_noise_differs_everywhere() -> None:
    """No two of these places share a single number, as long as steps, positions, streams or seeds differ."""
    tables = [
        gumbel_noise(torch.tensor([seed]), step, 4, 10, stream=stream)
        for seed in (0, 1, TOP_SEED)
        for step in (0, 1, 2)
        for stream in (0, 1, CONFIDENCES)
    ]
    values = torch.cat(tables).flatten()
    assert len(values.unique()) >= len(values) - 2  # of 31 bits, two may be equal by chance


def test_seeds_out_of_range_are_refused() -> None:
    assert image_seeds([0, TOP_SEED], CPU).tolist() == [0, TOP_SEED]
    for seed in (-1, TOP_SEED + 1):
        with pytest.raises(ValueError, match=f"^seed must be from 0 to {TOP_SEED}, got {seed}$"):
            image_seeds([3, seed], CPU)


def test_noise_is_gumbel_noise() -> None:
    noise = gumbel_noise(torch.tensor([0]), 0, 1000, 1000).flatten().double()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.004)  # three standard errors
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)
    for high in (0.0, 2.0, 5.0, 9.0):  # P(noise > g) = 1 - exp(-exp(-g)), far into the tail that decides draws
        expected = 1 - math.exp(-math.exp(-high))
        assert (noise > high).double().mean().item() == pytest.approx(expected, abs=4 * (expected / 1e6) ** 0.5)


@pytest.mark.parametrize("apart", ["seeds", "steps", "positions", "tokens"])
def test_bits_are_uniform_along_each_direction(apart: str) -> None:
    """Chi-square of the upper four bits over 2,000 neighbours, 15 degrees of freedom: 99.9 % lie below 37.7."""
    shapes = {"seeds": (range(2000), 1, 1), "positions": ([5], 2000, 1), "tokens": ([5], 1, 2000)}
    if apart == "steps":
        bits = np.concatenate([random_bits([5], step, 1, 1) for step in range(2000)])
    else:
        seeds, length, size = shapes[apart]
        bits = random_bits(seeds, 0, length, size)
    counts = np.bincount(bits.flatten() >> 27, minlength=16)
    assert ((counts - 125) ** 2 / 125).sum() < 37.7


def test_noise_is_finite_at_the_ends_of_the_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is alone left by the filters is drawn, however small its noise."""
    for bits, low, high in ((0, 22.0, 23.0), (2**31 - 1, -3.0, -2.5)):
        monkeypatch.setattr(module, "random_bits", lambda *_, bits=bits, **__: np.full((1, 1, 3), bits, np.int32))
        noise = gumbel_noise(torch.tensor([0]), 0, 1, 3)
        assert ((noise >= low) & (noise <= high)).all()
