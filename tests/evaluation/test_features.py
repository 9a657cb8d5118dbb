"""Features of torchvision's classifiers."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from nextscale.evaluation.features import FeatureNetwork, load_features
from nextscale.nn.perceptual import imagenet_normalised


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


def test_features_of_a_classifier_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = get_model("shufflenet_v2_x0_5", weights=None, num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    pooled, logits = load_features("shufflenet_v2_x0_5", tmp_path / "own.pth").outputs(images)
    assert pooled.shape == (2, 1024)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(imagenet_normalised(images)), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match=r"own\.pth: not a state dict of torchvision's mobilenet_v2"):
        load_features("mobilenet_v2", tmp_path / "own.pth")


def test_unknown_backbones_and_unfit_weights_are_explained(tmp_path) -> None:
    with pytest.raises(ValueError, match="not a torchvision model"):
        FeatureNetwork("mobilenet_v9")
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: not a state dict of torchvision's mobilenet_v2"):
        FeatureNetwork(weights=tmp_path / "w.pth")
    (tmp_path / "x.pth").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"x\.pth: not a state dict"):
        FeatureNetwork(weights=tmp_path / "x.pth")
