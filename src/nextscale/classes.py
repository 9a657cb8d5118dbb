"""Class names: which one a person means, and those of ImageNet."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes in the official order, each with its synonyms: "tench, Tinca tinca" (WordNet's words)."""
    text = (files("nextscale") / "assets" / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def synonyms(name: str) -> list[str]:
    """The alternatives that a class name lists with commas, folded for comparison."""
    return [part.strip().casefold() for part in name.split(",")]


def find_class(wanted: str, names: Sequence[str]) -> int:
    """Id of a class by its whole name or one of its synonyms, whatever the case.

    A class whose first word is meant goes before those with the same word further on. Raises ValueError with
    the ids where several remain, and with near matches where there is none.
    """
    wanted = wanted.strip()
    folded = wanted.casefold()
    listed = [[name.casefold(), *synonyms(name)] for name in names]
    for place in (slice(0, 1), slice(1, 2), slice(None)):
        found = [index for index, forms in enumerate(listed) if folded in forms[place]]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(f"{index} ({names[index]})" for index in found)
            raise ValueError(f"class {wanted!r} names several: {choices}; give the id")
    forms = list(dict.fromkeys(form for name in names for form in (name, *(part.strip() for part in name.split(",")))))
    by_folded = {form.casefold(): form for form in forms}
    near = [by_folded[form] for form in difflib.get_close_matches(folded, by_folded, n=3, cutoff=0.4)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(names[:20])}"
    raise ValueError(f"class {wanted!r} is not known; {hint}")
