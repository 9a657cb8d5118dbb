"""Metrics: known answers and slow references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.evaluation import metrics
from nextscale.evaluation.metrics import (
    FeatureStatistics,
    accuracy,
    class_means,
    compare_manifolds,
    frechet_distance,
    inception_score,
    kernel_distance,
    nearest_mean,
)


def gaussian(mean: list[float], covariance: list[list[float]]) -> FeatureStatistics:
    return FeatureStatistics(torch.tensor(mean).double(), torch.tensor(covariance).double(), 100)


def test_frechet_distance_of_known_gaussians() -> None:
    a = gaussian([0, 0], [[1, 0], [0, 4]])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, gaussian([3, 4], [[1, 0], [0, 4]])) == pytest.approx(25)
    assert frechet_distance(a, gaussian([0, 0], [[9, 0], [0, 1]])) == pytest.approx((1 - 3) ** 2 + (2 - 1) ** 2)
    # Correlated against independent: tr((S_a S_b)^(1/2)) from the 2x2 closed form sqrt(tr + 2 sqrt(det)).
    one, two = torch.tensor([[2.0, 1], [1, 2]]), torch.tensor([[1.0, 0], [0, 3]])
    product = one @ two
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.det(product)))
    expected = float(one.trace() + two.trace()) - 2 * root
    assert frechet_distance(gaussian([0, 0], one.tolist()), gaussian([0, 0], two.tolist())) == pytest.approx(expected)


def test_frechet_distance_of_singular_covariances_is_finite() -> None:
    features = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    statistics = FeatureStatistics.of(features)
    assert frechet_distance(statistics, statistics) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_no_distance_of_what_is_not_finite(wrong: float) -> None:
    good = gaussian([0, 0], [[1, 0], [0, 4]])
    for bad in (gaussian([0, wrong], [[1, 0], [0, 4]]), gaussian([0, 0], [[wrong, 0], [0, 4]])):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(ValueError, match="needs finite statistics"):
                frechet_distance(*pair)
    with pytest.raises(ValueError, match="Frechet distance is inf: "):
        frechet_distance(good, FeatureStatistics(torch.tensor([1e200, 0], dtype=torch.float64), good.covariance, 100))
    with pytest.raises(ValueError, match="of 2 and of 3 features"):
        frechet_distance(good, gaussian([0, 0, 0], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]))


def test_sound_statistics() -> None:
    features = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    FeatureStatistics.of(features).require_sound()  # singular, as those of few images are
    FeatureStatistics.of(1000 * features[:, :1]).require_sound()
    for covariance, message in (
        ([[1, 0.1], [0, 1]], "not symmetric"),
        ([[1, 2], [2, 1]], "a variance below 0"),
        ([[1, 0], [0, math.nan]], "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            gaussian([0, 0], covariance).require_sound()


def test_statistics_are_those_of_numpy() -> None:
    features = torch.randn(50, 4)
    statistics = FeatureStatistics.of(features)
    torch.testing.assert_close(statistics.mean, features.double().mean(0))
    assert np.allclose(statistics.covariance.numpy(), np.cov(features.double().numpy(), rowvar=False))
    with pytest.raises(ValueError, match="at least two"):
        FeatureStatistics.of(features[:1])


def test_nearest_class_mean() -> None:
    features = torch.tensor([[0.0, 0], [0, 2], [10, 0], [10, 2]])
    labels = torch.tensor([0, 0, 1, 1])
    means = class_means(features, labels, 2)
    assert means.tolist() == [[0, 1], [10, 1]]
    predicted = nearest_mean(torch.tensor([[1.0, 1], [9, 5], [4, 0]]), means)
    assert predicted.tolist() == [0, 1, 0]
    assert accuracy(predicted, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="every one of 3 classes"):
        class_means(features, labels, 3)


def features(count: int, size: int = 6, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_score_of_sure_and_even_predictions_is_the_number_of_classes() -> None:
    logits = 100 * torch.eye(5).repeat(20, 1)
    assert inception_score(logits, splits=1) == (pytest.approx(5), 0)
    assert inception_score(torch.zeros(20, 5), splits=2)[0] == pytest.approx(1)
    mean, _ = inception_score(logits, splits=5, seed=None)
    assert mean == pytest.approx(5)


def test_the_kernel_distance_is_the_sum_over_pairs() -> None:
    a, b = features(7), features(5, seed=1, shift=0.5)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x.double() @ y.double()) / 6 + 1) ** 3

    within = [
        sum(kernel(x, y) for x in s for y in s if x is not y) / (len(s) * (len(s) - 1)) for s in (list(a), list(b))
    ]
    across = sum(kernel(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across, rel=1e-5)


def test_the_kernel_distance_of_one_distribution_is_about_zero() -> None:
    same, moved = (kernel_distance(features(2000), features(2000, seed=1, shift=s)) for s in (0.0, 1.0))
    assert abs(same) < 0.01 < 0.5 < moved


def slow_manifold(generated: np.ndarray, real: np.ndarray, k: int, wide: int) -> tuple[float, float, float, float]:
    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return math.dist(x, y)

    def radius(own: np.ndarray, index: int, k: int) -> float:
        return sorted(distance(own[index], other) for place, other in enumerate(own) if place != index)[k - 1]

    real_k = [radius(real, i, k) for i in range(len(real))]
    generated_k = [radius(generated, i, k) for i in range(len(generated))]
    real_wide = [radius(real, i, wide) for i in range(len(real))]
    precision = np.mean([any(distance(g, r) <= q for r, q in zip(real, real_k, strict=True)) for g in generated])
    recall = np.mean([any(distance(r, g) <= q for g, q in zip(generated, generated_k, strict=True)) for r in real])
    density = np.mean(
        [sum(distance(g, r) <= q for r, q in zip(real, real_wide, strict=True)) / wide for g in generated]
    )
    coverage = np.mean([any(distance(g, r) <= q for g in generated) for r, q in zip(real, real_wide, strict=True)])
    return float(precision), float(recall), float(density), float(coverage)


@settings(max_examples=25)
@given(st.integers(7, 30), st.integers(7, 30), st.floats(0, 3), st.integers(1, 4), st.integers(0, 1000))
def test_manifolds_are_those_of_the_definition(n: int, m: int, shift: float, k: int, seed: int) -> None:
    generated, real = features(n, 3, seed, shift), features(m, 3, seed + 1)
    found = compare_manifolds(generated, real, neighbours=k)
    expected = slow_manifold(generated.double().numpy(), real.double().numpy(), k, 5)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected, abs=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = features(50), features(40, seed=1, shift=0.3)
    whole = compare_manifolds(generated, real), kernel_distance(generated, real)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", 7)
    parts = compare_manifolds(generated, real), kernel_distance(generated, real)
    assert parts[0] == whole[0]
    assert parts[1] == pytest.approx(whole[1], rel=1e-6)
    assert len(list(metrics.squared_distances(generated, real))) == 8


def test_figures_are_those_of_torch_fidelity() -> None:
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    generated, real = features(600, 40), features(600, 40, seed=1, shift=0.1)
    theirs = prc_features_to_metric(generated, real, prc_neighborhood=3, prc_batch_size=200, verbose=False)
    ours = compare_manifolds(generated, real)
    assert ours.precision == pytest.approx(theirs["precision"], rel=1e-3)
    assert ours.recall == pytest.approx(theirs["recall"], rel=1e-3)
    score = isc_features_to_metric(generated)
    assert inception_score(generated)[0] == pytest.approx(score["inception_score_mean"], rel=1e-6)
    assert inception_score(generated)[1] == pytest.approx(score["inception_score_std"], rel=1e-6)
    kernel = kid_features_to_metric(generated, real, kid_subset_size=600, kid_subsets=1, verbose=False)
    assert kernel_distance(generated, real) == pytest.approx(kernel["kernel_inception_distance_mean"], rel=1e-3)


def test_unusable_sets_are_refused() -> None:
    good = features(10)
    bad = good.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(ValueError, match="features of 1 images are not finite, first of image 3"):
        kernel_distance(good, bad)
    with pytest.raises(ValueError, match="holds 5 images, this figure needs at least 6"):
        compare_manifolds(features(5), good)
    with pytest.raises(ValueError, match="different sizes, 6 and 4"):
        kernel_distance(good, features(10, 4))
    with pytest.raises(ValueError, match="holds 3 images, this figure needs at least 10"):
        inception_score(features(3))
