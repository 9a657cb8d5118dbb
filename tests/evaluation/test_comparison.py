"""All figures of two sets: finite or refused, and class accuracy by the means that there are."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from nextscale.evaluation.comparison import ClassMeans, compare_features
from nextscale.evaluation.features import FeatureSet
from nextscale.evaluation.reference import relabelled


def test_figures_are_finite_or_refused() -> None:
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    good = FeatureSet(features, features, torch.zeros(12, dtype=torch.int64))
    for name, value in asdict(compare_features(good, good)).items():
        assert value is None or math.isfinite(value), name
    huge = replace(good, pooled=features * 1e15)  # finite, but not the third power of their products
    with pytest.raises(ValueError, match=r"^kernel distance is (nan|inf|-inf): the images, the weights or the data"):
        compare_features(huge, huge)
    with pytest.raises(ValueError, match="logits: features of 1 images are not finite"):
        compare_features(replace(good, logits=features.index_fill(0, torch.tensor([3]), math.nan)), good)
    with pytest.raises(ValueError, match="features of 1 images are not finite, first of image 3"):
        compare_features(replace(good, pooled=features.index_fill(0, torch.tensor([3]), math.nan)), good)


def test_means_of_the_classes_that_are_there() -> None:
    points = torch.tensor([[0.0, 0], [0, 2], [10, 0], [5, 5]])
    means = ClassMeans.of(FeatureSet(points, points, torch.tensor([4, 4, 7, -1])))
    assert means is not None and means.ids.tolist() == [4, 7] and means.means.tolist() == [[0, 1], [10, 0]]
    told = means.accuracy(torch.tensor([[1.0, 1], [9, 0], [9, 1], [0, 0]]), torch.tensor([4, 4, 7, 5]))
    assert told == pytest.approx(2 / 3), "the class without a mean is left out"
    assert means.accuracy(points, torch.tensor([0, 1, 2, -1])) is None
    assert ClassMeans.of(FeatureSet(points, points, torch.tensor([4, 4, -1, -1]))) is None
    moved = relabelled(FeatureSet(points, points, torch.tensor([0, 2, 1, -1])), (5, -1, 3))
    assert moved.labels.tolist() == [5, 3, -1, -1]
