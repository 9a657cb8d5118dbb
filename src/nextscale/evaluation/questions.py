"""Questions that a model of prompts is asked: each a prompt, and the caption of the real images that answer it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.config import read_json
from nextscale.evaluation.config import TextEvaluation

logger = logging.getLogger("nextscale.evaluation")


@dataclass(frozen=True)
class Question:
    """A prompt, and the answers that it is to be told among."""

    prompt: str
    name: str
    "Caption of the right images."
    candidates: tuple[str, ...] = ()
    "Captions of the images to tell them from; without any, every image is an answer of its own."


def places_of(captions: Iterable[tuple[str, ...]]) -> dict[str, list[int]]:
    """For each caption the images that carry it."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, own in enumerate(captions):
        for caption in own:
            found[caption].append(index)
    return dict(found)


def asked(
    config: TextEvaluation, captions: Sequence[tuple[str, ...]], places: Mapping[str, list[int]]
) -> list[Question]:
    """The questions of a file, or the first captions of images from all over the data; two at least.

    Raises ValueError.
    """
    if config.questions:
        found = checked(read_questions(Path(config.questions)), places, config)
    else:
        found = from_captions(config, captions)
    if len(found) < 2:
        where = config.questions or f"data {config.data}"
        raise ValueError(f"{where}: asks for {found[0].prompt!r} alone; two prompts are needed, to shuffle them")
    return found


def from_captions(config: TextEvaluation, captions: Sequence[tuple[str, ...]]) -> list[Question]:
    """The first captions of images from all over the data, among all images. Raises ValueError."""
    known = [own[0] for own in captions if own]
    if not known:
        raise ValueError(
            f"data {config.data}: has no captions; name their place with --caption-column, or make them of class "
            "names with --caption-template 'a {name}'"
        )
    chosen = np.unique(np.linspace(0, len(known) - 1, min(config.count, len(known))).astype(np.int64))
    return [Question(prompt, prompt) for prompt in dict.fromkeys(known[index] for index in chosen)]


def read_questions(path: Path) -> list[Question]:
    """The `questions` of a JSON file; `candidates` beside them are those of every question that has none.

    A question has `name`, and may have `prompt` (its name, if left out) and `candidates`. Raises ValueError.
    """
    held = read_json(path)
    listed = held.get("questions")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{path}: holds no questions; expected a list of objects with name, prompt and candidates")
    shared = held.get("candidates", [])
    return [question_of(one, shared, f"{path}: question {number}") for number, one in enumerate(listed, 1)]


def question_of(one: Any, shared: Any, where: str) -> Question:
    """A question as a file holds it. Raises ValueError."""
    held = one if isinstance(one, dict) else {}
    name, candidates = held.get("name"), held.get("candidates", shared)
    prompt = held.get("prompt", name)
    texts = [name, prompt, *candidates] if isinstance(candidates, list) else [None]
    if not name or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: needs a name, and texts as its prompt and candidates")
    return Question(str(prompt), str(name), tuple(candidates))


def checked(questions: list[Question], places: Mapping[str, list[int]], config: TextEvaluation) -> list[Question]:
    """The questions without those candidates that no image shows, which is logged.

    Raises ValueError where no image shows what is asked for, or nothing is left to tell it from.
    """
    missing = [question.name for question in questions if question.name not in places]
    if missing:
        raise ValueError(
            f"{config.questions}: no image of --data or --others has the caption {missing[0]!r}"
            + (f", nor those of {len(missing) - 1} other questions" if len(missing) > 1 else "")
        )
    unknown = sorted({one for question in questions for one in question.candidates if one not in places})
    if unknown:
        logger.warning("%d candidates have no image and are left out: %s", len(unknown), ", ".join(unknown[:3]))
    for one in questions:
        shown = {image for name in one.candidates or places for image in places.get(name, ())}
        if shown <= {*places[one.name]}:
            raise ValueError(f"{config.questions}: {one.name!r} has no candidates with images to tell it from")
    return [replace(one, candidates=tuple(filter(places.__contains__, one.candidates))) for one in questions]
