"""`evaluate text`: right answers are found by features of images drawn of prompts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale import VARPipeline
from nextscale.cli import main
from nextscale.evaluation import text
from nextscale.evaluation.config import TextEvaluation
from nextscale.evaluation.questions import Question, checked, places_of, read_questions
from nextscale.evaluation.text import Gallery, evaluate_text, figures, others, rank, shuffled_places
from toys import CLASS_NAMES, TEXT, make_pipeline, toy_image

CAPTIONS = [
    ("a red heart, flat", "red heart"),
    ("a red heart, 3d", "red heart"),
    ("a cat",),
    ("a dog",),
    ("red heart",),
]


def gallery() -> Gallery:
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    return Gallery([], features, CAPTIONS, places_of(CAPTIONS))


@pytest.mark.parametrize(
    ("question", "features", "expected"),
    [
        (Question("x", "red heart"), (1.0, 0.1), 1),
        (Question("x", "red heart"), (0.0, 1.0), 3),  # the dog, then the cat
        (Question("x", "red heart"), (-1.0, 0.0), 1),  # any image of that caption
        (Question("x", "a red heart, 3d"), (1.0, 0.0), 2),
        (Question("x", "a cat", ("a cat", "red heart")), (0.9, 0.5), 2),
        (Question("x", "a cat", ("a cat", "a dog")), (0.9, 0.5), 1),
        (Question("x", "a cat", ("a dog",)), (0.0, 2.0), 2),
        (Question("x", "red heart", ("a red heart, 3d", "a dog")), (0.8, 0.6), 1),  # another caption of a right image
    ],
)
def test_answers_are_ordered_by_their_nearest_image(question: Question, features: Any, expected: int) -> None:
    assert rank(gallery(), question, torch.tensor(features)) == expected


def test_an_answer_is_a_candidate_or_an_image() -> None:
    similar = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    assert others(gallery(), Question("x", "a cat"), similar).tolist() == pytest.approx([0.1, 0.2, 0.4, 0.5])
    assert others(gallery(), Question("x", "a cat", ("red heart", "a dog")), similar).tolist() == pytest.approx(
        [0.5, 0.4]
    )


def test_shuffled_prompts_are_about_other_names() -> None:
    names = ["a", "b", "a", "c", "d"]
    places = shuffled_places([Question(f"{name} {place}", name) for place, name in enumerate(names)])
    assert places == [3, 3, 4, 0, 1]
    assert all(names[place] != name for place, name in zip(places, names, strict=True))


def test_figures_of_ranks() -> None:
    found = figures([1, 1, 2, 6])
    assert found == {"first": 0.5, "first_error": 0.25, "first_five": 0.75, "median_rank": 1.5}


def test_questions_of_a_file(tmp_path: Path) -> None:
    def read(held: Any) -> list[Question]:
        (tmp_path / "q.json").write_text(json.dumps(held))
        return read_questions(tmp_path / "q.json")

    shared = {
        "candidates": ["a", "b"],
        "questions": [{"name": "a"}, {"name": "b", "prompt": "the b", "candidates": ["c"]}],
    }
    assert read(shared) == [Question("a", "a", ("a", "b")), Question("the b", "b", ("c",))]
    assert read({"questions": [{"name": "a", "kind": "colour"}]}) == [Question("a", "a")]
    wrong: list[tuple[Any, str]] = [
        ({}, "holds no questions"), ({"questions": []}, "holds no questions"), ([], "expected a JSON object"),
        ({"questions": ["a"]}, "question 1: needs a name"), ({"questions": [{"name": "a"}, {"name": 3}]}, "question 2"),
        ({"questions": [{"name": "a", "candidates": "b"}]}, "question 1"),
        ({"questions": [{"name": "a", "candidates": [1]}]}, "question 1"),
    ]  # fmt: skip
    for held, message in wrong:
        with pytest.raises(ValueError, match=message):
            read(held)


def test_another_caption_of_the_right_images_is_nothing_to_tell_them_from() -> None:
    config = TextEvaluation(data="data", model="model", questions="q.json")
    places = places_of(CAPTIONS[:1])
    for candidates in (("a red heart, flat",), ()):
        with pytest.raises(ValueError, match="q.json: 'red heart' has no candidates with images"):
            checked([Question("x", "red heart", candidates)], places, config)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for label, name in enumerate(CLASS_NAMES):
        (tmp_path / "images" / name).mkdir(parents=True)
        toy_image(label, 0).save(tmp_path / "images" / name / "0.png")
    return tmp_path / "images"


def test_a_model_of_prompts_is_measured(
    images: Path,
    tmp_path: Path,
    small_features: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    make_pipeline(text=TEXT).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    command = ["evaluate", "text", "--model", str(tmp_path / "model"), "--data", str(images), "--out", str(out)]
    command += ["--features", "small-6", "--caption-template", "a {name}", "--samples", "2"]
    assert main([*command, "--guidances", "0,2", "--others", f"{images}/"]) == 0
    told = capsys.readouterr()
    assert f"{images}: named more than once, counted once" in told.err
    assert "the right image, reconstructed" in told.out
    report = json.loads((out / "report.json").read_text())
    names = [f"a {name}" for name in CLASS_NAMES]
    assert [one["prompt"] for one in report["questions"]] == names
    assert [point["guidance"] for point in report["points"]] == [0, 2]
    assert report["chance"] == pytest.approx(1 / len(names)) and report["images"] == len(names)
    assert all(1 <= place <= len(names) for point in report["points"] for place in point["ranks"])
    assert (out / "recognised.png").stat().st_size > 0

    # Images drawn of the prompts with the seeds that the report names, by hand.
    pipeline = VARPipeline.from_pretrained(tmp_path / "model")
    drawn = pipeline.generate(names, seeds=range(1_000_000, 1_000_000 + 2 * len(names)), guidance=2).images
    seen: list[Any] = []
    plain = text.draw
    monkeypatch.setattr(text, "draw", lambda *given: seen.append(plain(*given)) or seen[-1])
    config = {"data": str(images), "model": str(tmp_path / "model"), "features": "small-6", "out": str(out)}
    evaluate_text(TextEvaluation(caption_template="a {name}", samples=2, guidance=2, **config))
    assert [image.tobytes() for image in seen[0]] == [image.tobytes() for image in drawn]

    # A model that draws the real images answers everything; the same images of other prompts answer nothing.
    real = [toy_image(label, 0).resize((16, 16)) for label in range(len(CLASS_NAMES))]
    monkeypatch.setattr(text, "draw", lambda *given: real * 2)
    (point,) = evaluate_text(TextEvaluation(caption_template="a {name}", samples=2, **config))["points"]
    assert point["drawn"]["first"] == 1 and point["shuffled"]["first"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: make_pipeline().save_pretrained(folder / "model"), "draws classes"),
        (lambda folder: {"caption_template": ""}, "has no captions"),
        (lambda folder: {"questions": asked(folder, [{"name": "a cow"}])}, "no image .* has the caption 'a cow'"),
        (
            lambda folder: {"questions": asked(folder, [{"name": "a red", "candidates": ["a red", "a cow"]}])},
            "'a red' has no candidates with images",
        ),
        (
            lambda folder: {"questions": asked(folder, [{"name": "a red", "candidates": ["a cow", "a hen"]}])},
            "'a red' has no candidates with images",
        ),
        (lambda folder: {"questions": asked(folder, [{"name": "a red"}])}, "asks for 'a red' alone"),
        (lambda folder: {"guidance": 1.0, "guidances": (2.0,)}, "name the same setting"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    images: Path, tmp_path: Path, small_features: None, change: Callable[[Path], Any], message: str
) -> None:
    make_pipeline(text=TEXT).save_pretrained(tmp_path / "model")
    settings = {"data": str(images), "model": str(tmp_path / "model"), "features": "small-6"}
    settings |= {"caption_template": "a {name}", "out": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=message):
        evaluate_text(TextEvaluation(**settings | (change(tmp_path) or {})))
    assert not (tmp_path / "out").exists()


def asked(folder: Path, questions: list[dict]) -> str:
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    return str(folder / "questions.json")
