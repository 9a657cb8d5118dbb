"""Rejection sampling: which candidates are kept, with which scores."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from nextscale.nn.perceptual import imagenet_normalised
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.likelihood import token_log_probabilities
from nextscale.sampling.rejection import Candidates, Rejection, classifier_of, load_judge, load_rejection
from toys import toy_image


def test_the_best_by_the_judge_are_kept(pipeline: VARPipeline) -> None:
    every = pipeline.generate([1, 2], seeds=[6, 9, 7, 10, 8, 11])

    def judge(candidates: Candidates) -> torch.Tensor:
        assert candidates.tokens.batch_size == 3 and candidates.images().shape == (3, 3, 16, 16)
        return torch.tensor([0.5, 0.1, 0.9])

    best = pipeline.generate([1, 2], seeds=[2, 3], rejection=Rejection(candidates=3, keep=2, judge=judge))
    assert best.classes == [1, 1, 2, 2]
    assert best.seeds == [8, 6, 11, 9], "candidate j of seed s has the seed 3 s + j; the best comes first"
    assert best.scores == pytest.approx([0.9, 0.5, 0.9, 0.5])
    drawn = {seed: row for row, seed in enumerate([6, 9, 7, 10, 8, 11])}
    for row, seed in enumerate(best.seeds):
        assert torch.equal(best.tokens.packed[row], every.tokens.packed[drawn[seed]])
        assert best.images[row].tobytes() == every.images[drawn[seed]].tobytes()


def test_the_likelihood_judge_does_not_depend_on_the_batch(pipeline: VARPipeline) -> None:
    rejection = Rejection(candidates=4, keep=4)
    whole = pipeline.generate(range(3), seeds=range(3), rejection=rejection)
    alone = [pipeline.generate(c, seeds=[c], rejection=rejection, batch_size=1) for c in (0, 1, 2)]
    assert whole.scores == [score for one in alone for score in one.scores or ()]
    assert whole.seeds == [seed for one in alone for seed in one.seeds]
    assert whole.scores == pytest.approx(scores_by_hand(pipeline, whole.tokens, whole.classes, coarse=1), abs=1e-3)
    for start in (0, 4, 8):
        assert whole.scores[start : start + 4] == sorted(whole.scores[start : start + 4], reverse=True)


def scores_by_hand(pipeline: VARPipeline, tokens: TokenPyramid, classes: list[int], coarse: int) -> list[float]:
    """Token by token: evidence of the class up to `coarse`, a fifth of log p without class behind it."""
    model, quantizer = pipeline.transformer, pipeline.tokenizer.quantizer
    given, _ = token_log_probabilities(model, quantizer, tokens, torch.tensor(classes))
    nobody = torch.full((len(classes),), model.config.unconditional)
    free, _ = token_log_probabilities(model, quantizer, tokens, nobody)
    scores = []
    for row in range(len(classes)):
        each = zip(given[row].tolist(), free[row].tolist(), strict=True)
        scores.append(sum(g - f if token < coarse else 0.2 * f for token, (g, f) in enumerate(each)))
    return scores


def test_the_ratio_judges_every_token(pipeline: VARPipeline) -> None:
    judge = load_judge("likelihood-ratio", classes=3)
    best = pipeline.generate(2, seeds=[1], rejection=Rejection(candidates=3, keep=3, judge=judge))
    every = best.tokens.schedule.length
    assert best.scores == pytest.approx(scores_by_hand(pipeline, best.tokens, best.classes, coarse=every), abs=1e-3)


def test_one_candidate_is_plain_generation(pipeline: VARPipeline) -> None:
    plain = pipeline.generate([0, 1], seeds=[5, 6])
    assert plain.scores is None
    judged = pipeline.generate([0, 1], seeds=[5, 6], rejection=Rejection())
    assert torch.equal(judged.tokens.packed, plain.tokens.packed) and judged.scores is not None
    assert load_rejection(1, 1, "likelihood", classes=3) is None


def test_wrong_rejections_are_refused(pipeline: VARPipeline) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1 and at most the number of candidates, got 3 of 2"):
        Rejection(candidates=2, keep=3)
    with pytest.raises(ValueError, match="judges how well an image shows its class"):
        pipeline.generate(None, seeds=[0], rejection=Rejection(candidates=2))


def test_classifiers_judge_by_the_probability_of_the_class(pipeline: VARPipeline, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = get_model("mobilenet_v3_small", weights=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "judge.pth")
    found, classes = classifier_of(tmp_path / "judge.pth")
    assert type(found) is type(network) and classes == 3

    judge = load_judge(str(tmp_path / "judge.pth"), classes=3)
    best = pipeline.generate(1, seeds=[0], rejection=Rejection(candidates=5, keep=5, judge=judge))
    images = pipeline.tokenizer.decode(best.tokens)
    with torch.no_grad():
        wanted = network.eval()(imagenet_normalised(images)).log_softmax(dim=1)[:, 1]
    assert best.scores == pytest.approx(wanted.tolist(), abs=1e-4)

    with pytest.raises(ValueError, match="tells 3 classes, the model has 7"):
        load_judge(str(tmp_path / "judge.pth"), classes=7)
    with pytest.raises(ValueError, match="neither likelihood nor likelihood-ratio, nor a classifier of torchvision"):
        load_judge("nobody", classes=3)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="not a file of weights"):
        load_judge(str(tmp_path / "text.pth"), classes=3)
    torch.save({"weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds the tensors of no torchvision classifier"):
        load_judge(str(tmp_path / "other.pth"), classes=3)


def test_a_judge_of_other_classes_is_refused() -> None:
    """Before its weights are read or fetched."""
    with pytest.raises(ValueError, match="judge resnet50: tells 1000 classes, the model has 3"):
        load_judge("resnet50", classes=3, class_names=("a", "b", "c"))
    names = tuple(f"class {number}" for number in range(1000))
    with pytest.raises(ValueError, match=r"tells ImageNet's classes in their order, the model's are others"):
        load_judge("resnet50", classes=1000, class_names=names)


def test_scores_that_are_no_numbers_are_refused(pipeline: VARPipeline) -> None:
    broken = Rejection(candidates=2, judge=lambda candidates: torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="the judge's scores are not numbers"):
        pipeline.generate(1, seeds=[0], rejection=broken)
    far = [(0, 0, 4, 4), (150, 150, 154, 154)]  # two regions, one after the other
    with pytest.raises(ValueError, match="the judge's scores are not numbers"):
        pipeline.inpaint(toy_image(0, 0, side=160), far, classes=1, rejection=broken)


def test_all_classes_are_asked_for_before_an_image_is_drawn(pipeline: VARPipeline) -> None:
    batches = pipeline.generate_batches([1, None], seeds=[0, 1], batch_size=2, rejection=Rejection(candidates=2))
    with pytest.raises(ValueError, match="name classes"):
        next(batches)
