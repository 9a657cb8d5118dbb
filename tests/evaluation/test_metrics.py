"""Metrics on problems with known answers."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from nextscale.evaluation.classification import accuracy, class_means, nearest_mean
from nextscale.evaluation.comparison import compare
from nextscale.evaluation.features import FeatureNetwork, FeatureSet
from nextscale.evaluation.frechet import FeatureStatistics, frechet_distance
from nextscale.evaluation.reconstruction import psnr


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


def test_figures_are_finite_or_refused() -> None:
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    good = FeatureSet(features, features, torch.zeros(12, dtype=torch.int64))
    for name, value in asdict(compare(good, good)).items():
        assert value is None or math.isfinite(value), name
    huge = replace(good, pooled=features * 1e15)  # finite, but not the third power of their products
    with pytest.raises(ValueError, match=r"^kernel distance is (nan|inf|-inf): the images, the weights or the data"):
        compare(huge, huge)
    with pytest.raises(ValueError, match="logits: features of 1 images are not finite"):
        compare(replace(good, logits=features.index_fill(0, torch.tensor([3]), math.nan)), good)
    with pytest.raises(ValueError, match="features of 1 images are not finite, first of image 3"):
        compare(replace(good, pooled=features.index_fill(0, torch.tensor([3]), math.nan)), good)


def test_statistics_are_those_of_numpy() -> None:
    features = torch.randn(50, 4)
    statistics = FeatureStatistics.of(features)
    torch.testing.assert_close(statistics.mean, features.double().mean(0))
    import numpy as np

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


def test_psnr_of_known_errors() -> None:
    images = torch.zeros(2, 3, 4, 4)
    noisy = images.clone()
    noisy[1] += 0.2  # a hundredth of the squared range
    assert psnr(images, noisy)[1].item() == pytest.approx(20, abs=1e-4)
    assert psnr(images, torch.stack([noisy, noisy])).shape == (2, 2)


def test_features_of_a_backbone_with_weights_from_a_file(mobilenet: str) -> None:
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2().eval()
    network.load_state_dict(torch.load(mobilenet))
    extractor = FeatureNetwork("mobilenet_v2", weights=mobilenet)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    features = extractor.extract([images[:2], images[2:]])
    assert features.shape == (3, 1280)
    normal = ((images + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = network.features(normal).mean(dim=(2, 3))
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-3)


def test_unknown_backbones_and_unfit_weights_are_explained(tmp_path) -> None:
    with pytest.raises(ValueError, match="not a torchvision model"):
        FeatureNetwork("mobilenet_v9")
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: not a state dict of torchvision's mobilenet_v2"):
        FeatureNetwork(weights=tmp_path / "w.pth")
    (tmp_path / "x.pth").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"x\.pth: not a state dict"):
        FeatureNetwork(weights=tmp_path / "x.pth")
