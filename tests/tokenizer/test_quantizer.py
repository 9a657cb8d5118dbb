"""The multi-scale quantiser against a brute-force reference."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from nextscale import ScaleSchedule, TokenPyramid
from nextscale.tokenizer import quantizer as quantizer_module
from nextscale.tokenizer.config import shared_convolutions
from nextscale.tokenizer.quantizer import ResidualQuantizer, disturb_tokens, nearest_codes, nearest_others
from toys import make_tokenizer


def make(sizes: list, codes: int = 17, channels: int = 5, **changes: Any) -> ResidualQuantizer:
    schedule = ScaleSchedule(sizes)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"phi_map": shared_convolutions(len(schedule)), "beta": 0.25}
    quantizer = ResidualQuantizer(schedule, codebook_size=codes, channels=channels, **settings | changes)
    torch.nn.init.normal_(quantizer.codebook)
    return quantizer


def brute_force(quantizer: ResidualQuantizer, features: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Algorithm 1 of the paper, one vector at a time: token maps and accumulated features per scale.

    Normalised codes are compared by their cosine, and added at length 1.
    """
    codebook = quantizer.codebook
    if quantizer.normalised:
        codebook = codebook / codebook.norm(dim=1, keepdim=True)
    rest, total = features.clone(), torch.zeros_like(features)
    size = quantizer.schedule.final
    maps, sums = [], []
    for scale, (h, w) in enumerate(quantizer.schedule):
        small = F.interpolate(rest, size=(h, w), mode="area")
        tokens = torch.empty(len(features), h, w, dtype=torch.long)
        embedded = torch.empty_like(small)
        for b in range(len(features)):
            for y in range(h):
                for x in range(w):
                    vector = small[b, :, y, x]
                    if quantizer.normalised:
                        distances = [-F.cosine_similarity(vector, code, dim=0).item() for code in quantizer.codebook]
                    else:
                        distances = [(vector - code).square().sum().item() for code in codebook]
                    tokens[b, y, x] = min(range(len(distances)), key=distances.__getitem__)
                    embedded[b, :, y, x] = codebook[tokens[b, y, x]]
        up = embedded if (h, w) == size else F.interpolate(embedded, size=size, mode="bicubic")
        phi = quantizer.phi_map[scale]
        refined = up if phi < 0 else 0.5 * up + 0.5 * quantizer.phi[phi](up)
        rest, total = rest - refined, total + refined
        maps.append(tokens)
        sums.append(total)
    return maps, sums


@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        ([1, 2, 3], {}),
        ([(1, 2), (2, 4)], {}),
        ([2, 2, 2], {}),
        ([3], {}),
        ([(2, 1), (3, 3), (3, 3)], {}),
        ([1, 2, 3], {"phi_map": (0, -1, 0)}),
        ([1, 2, (2, 3)], {"normalised": True}),
        ([(3, 2)], {"normalised": True, "phi_map": (-1,)}),
    ],
)
def test_encode_and_decode_equal_brute_force(sizes: list, changes: dict) -> None:
    quantizer = make(sizes, **changes)
    features = torch.randn(2, 5, *quantizer.schedule.final)
    features = F.normalize(features, dim=1) if quantizer.normalised else features
    with torch.no_grad():
        maps, sums = brute_force(quantizer, features)
        tokens = quantizer.encode(features)
        assert all(torch.equal(a, b) for a, b in zip(tokens, maps, strict=True))
        torch.testing.assert_close(quantizer.decode(tokens), sums[-1])
        for state, total in zip(quantizer.states(tokens), sums, strict=True):
            torch.testing.assert_close(state.accumulated, total)


def test_teacher_forcing_is_the_downsampled_sum_of_coarser_scales() -> None:
    quantizer = make([1, 2, 4])
    with torch.no_grad():
        tokens = quantizer.encode(torch.randn(2, 5, 4, 4))
        states = [state.accumulated for state in quantizer.states(tokens)]
        inputs = quantizer.teacher_forcing(tokens)
    second = F.interpolate(states[0], size=(2, 2), mode="area").flatten(2).transpose(1, 2)
    third = states[1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(inputs, torch.cat([second, third], dim=1))


def test_training_loss_and_straight_through_gradient() -> None:
    quantizer = make([1, 2, 3])
    features = torch.randn(2, 5, 3, 3, requires_grad=True)
    result = quantizer(features)
    _, sums = brute_force(quantizer, features.detach())
    expected = sum((1 + 0.25) * F.mse_loss(total, features.detach()) for total in sums) / 3
    torch.testing.assert_close(result.loss.detach(), expected.detach())
    torch.testing.assert_close(result.features.detach(), sums[-1].detach())
    (gradient,) = torch.autograd.grad(result.features.sum(), features, retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones_like(features))  # passes straight through
    pulled, codes = torch.autograd.grad(result.loss, [features, quantizer.codebook])
    commitment = sum(0.25 * 2 * (features.detach() - total) / features.numel() for total in sums) / 3
    torch.testing.assert_close(pulled, commitment.detach())
    assert codes.abs().sum() > 0


def test_normalised_codes_of_one_scale_are_the_published_quantiser() -> None:
    quantizer = make([3], normalised=True, phi_map=(-1,))
    latents = torch.randn(2, 5, 3, 3, requires_grad=True)
    unit = F.normalize(latents, dim=1)
    result = quantizer(unit)
    codes = F.normalize(quantizer.codebook, dim=1)[result.tokens[0]].permute(0, 3, 1, 2)
    torch.testing.assert_close(result.features, codes)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(2, 3, 3))
    expected = 0.25 * (codes.detach() - unit).square().mean() + (codes - unit.detach()).square().mean()
    torch.testing.assert_close(result.loss, expected)
    wanted = torch.autograd.grad(expected, [latents, quantizer.codebook], retain_graph=True)
    found = torch.autograd.grad(result.loss, [latents, quantizer.codebook], retain_graph=True)
    torch.testing.assert_close(found, wanted)
    (straight,) = torch.autograd.grad(result.features.pow(3).sum(), latents)
    assert (straight * latents).sum(dim=1).abs().max() < 1e-5, "a unit vector cannot grow"
    assert straight.abs().max() > 0.01


def test_normalised_codes_start_and_restart_at_length_one() -> None:
    quantizer = make([1, 2, 4], normalised=True)
    features = F.normalize(torch.randn(8, 5, 4, 4), dim=1)
    quantizer.start(features)
    torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(17))
    torch.testing.assert_close(quantizer.codes(), quantizer.codebook)
    before, dead = quantizer.codebook.detach().clone(), torch.arange(17) % 3 == 0
    quantizer.restart(dead, features)
    torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(17))
    assert torch.equal((quantizer.codebook == before).all(dim=1), ~dead)


def test_official_convolution_map_of_ten_scales() -> None:
    assert shared_convolutions(10) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)


@given(st.integers(1, 20), st.integers(1, 5))
def test_convolution_maps_rise_from_the_first_to_the_last(scales: int, convolutions: int) -> None:
    chosen = shared_convolutions(scales, convolutions)
    assert len(chosen) == scales
    assert list(chosen) == sorted(chosen)
    assert chosen[0] == 0
    assert scales == 1 or chosen[-1] == convolutions - 1


@given(st.integers(1, 50), st.integers(1, 40), st.integers(1, 8), st.integers(0, 999))
def test_nearest_codes_are_nearest(vectors: int, codes: int, channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, table = torch.randn(vectors, channels, generator=generator), torch.randn(codes, channels, generator=generator)
    distances = torch.cdist(z.double(), table.double())
    chosen = distances.gather(1, nearest_codes(z, table)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.min(dim=1).values, atol=1e-5, rtol=0)


def test_tokens_do_not_depend_on_autocast() -> None:
    quantizer = make([1, 2, 4])
    features = torch.randn(3, 5, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = quantizer.encode(features)
    assert torch.equal(low.packed, quantizer.encode(features).packed)


def test_encoding_of_a_whole_image_does_not_depend_on_the_batch() -> None:
    tokenizer = make_tokenizer()
    images = torch.rand(5, 3, *tokenizer.config.image_size) * 2 - 1
    together = tokenizer.encode(images)
    alone = torch.cat([tokenizer.encode(image[None]).packed for image in images])
    assert (together.packed == alone).float().mean() > 0.99  # convolutions may round differently


def test_residual_vectors_come_from_every_scale() -> None:
    quantizer = make([1, 2, 4])
    vectors = quantizer.residual_vectors(torch.randn(6, 5, 4, 4), limit=10)
    assert [len(rows) for rows in vectors] == [6, 10, 10]
    assert all(rows.shape[1] == 5 for rows in vectors)


def test_pyramid_of_another_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="packed tokens"):
        TokenPyramid(torch.zeros(1, 3, dtype=torch.long), make([1, 2]).schedule)


@given(st.integers(2, 40), st.integers(1, 8), st.integers(1, 50), st.integers(0, 999))
def test_nearest_others_equal_a_sorted_list(codes: int, channels: int, count: int, seed: int) -> None:
    codebook = torch.randn(codes, channels, generator=torch.Generator().manual_seed(seed)).double()
    found = nearest_others(codebook.float(), count)
    assert found.shape == (codes, min(count, codes - 1))
    for code, row in enumerate(found.tolist()):
        distances = {other: float((codebook[code] - codebook[other]).square().sum()) for other in range(codes)}
        del distances[code]
        assert len(set(row)) == len(row) and code not in row
        nearest = sorted(distances.values())[: len(row)]
        assert [distances[other] for other in row] == pytest.approx(nearest, rel=1e-4, abs=1e-4)


def test_nearest_others_of_a_table_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    whole = nearest_others(codebook, 5)
    monkeypatch.setattr(quantizer_module, "DISTANCE_BYTES", 4 * 30 * 7)  # seven rows at a time
    assert torch.equal(nearest_others(codebook, 5), whole)
    with pytest.raises(ValueError, match="a single code"):
        nearest_others(codebook[:1], 5)


def test_a_share_of_the_tokens_becomes_one_of_the_nearest() -> None:
    others = nearest_others(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), 6)
    tokens = torch.randint(50, (40, 500), generator=torch.Generator().manual_seed(1))
    shares = torch.tensor([0.0, 0.3, 1.0, 0.3] * 10)[:, None]
    disturbed = disturb_tokens(tokens, others, shares, generator=torch.Generator().manual_seed(2))
    changed = disturbed != tokens
    assert not changed[0::4].any() and changed[2::4].all()
    assert float(changed[1::2].float().mean()) == pytest.approx(0.3, abs=0.02)  # four deviations of 10,000 draws
    ranks = (others[tokens[changed]] == disturbed[changed][:, None]).nonzero()
    assert len(ranks) == int(changed.sum()), "only nearest ones"
    assert torch.bincount(ranks[:, 1]) / len(ranks) == pytest.approx(torch.full((6,), 1 / 6), abs=0.02)
    again = disturb_tokens(tokens, others, shares, generator=torch.Generator().manual_seed(2))
    assert torch.equal(again, disturbed)


def test_what_is_decoded_in_place_of_the_codes_changes_neither_tokens_nor_loss() -> None:
    quantizer = make([1, 2, 3])
    features = torch.randn(2, 5, 3, 3, requires_grad=True)
    clean, other = quantizer(features), quantizer(features, lambda tokens: quantizer.decode(tokens) + 7)
    assert torch.equal(other.tokens.packed, clean.tokens.packed) and torch.equal(other.loss, clean.loss)
    torch.testing.assert_close(other.features, clean.features + 7)
    gradient, codes = torch.autograd.grad(other.features.sum(), [features, quantizer.codebook], allow_unused=True)
    torch.testing.assert_close(gradient, torch.ones_like(features))
    assert codes is None
