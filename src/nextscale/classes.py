"""Class names: finding one as a person writes it, those of ImageNet, and matching the classes of two sets."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

logger = logging.getLogger("nextscale.classes")

UNMATCHED = -1
"""Id of a class that the other set does not have; equal to `NO_CLASS`, the label of images without a class."""

ClassLike = str | int | None
"""A class by name or id; None is the unconditional class."""
Classes = Sequence[ClassLike] | ClassLike
"""One class or several."""


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes in the official order, each with its synonyms: "tench, Tinca tinca" (WordNet's words)."""
    text = (files("nextscale") / "assets" / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def synonyms(name: str) -> list[str]:
    """The synonyms in a class name, which commas separate, in lower case."""
    return [part.strip().casefold() for part in name.split(",")]


def find_class(wanted: str, names: Sequence[str]) -> int:
    """Id of a class by its whole name or one of its synonyms, ignoring case.

    A whole name goes before a first synonym, and a first synonym before later ones. Raises ValueError with the ids
    where several classes match, and with similar names where none does.
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
    near = close_names(wanted, names)
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(names[:20])}"
    raise ValueError(f"class {wanted!r} is not known; {hint}")


def class_ids(classes: Classes, names: Sequence[str], config: Any) -> list[int]:
    """Ids of names, ids or None (unconditional) of a model of that `config`. Raises ValueError with near matches."""
    if classes is None or isinstance(classes, (str, int)):
        classes = [classes]
    if len(classes) == 0:
        raise ValueError("no classes given; name at least one, or None for unconditional")
    found = []
    for name in classes:
        if name is None:
            found.append(config.unconditional)
        elif isinstance(name, str) and not re.fullmatch(r"\s*-?\d+\s*", name):
            found.append(find_class(name, names))
        elif isinstance(name, str) and name.strip() in names:  # a class may be called "7"
            found.append(list(names).index(name.strip()))
        elif 0 <= int(name) < config.classes:
            found.append(int(name))
        else:
            raise ValueError(f"class {name} does not exist; ids go from 0 to {config.classes - 1}")
    return found


def repeated(ids: Sequence[int], count: int) -> list[int]:
    """`count` ids: these in turn."""
    return [ids[i % len(ids)] for i in range(count)]


def close_names(wanted: str, names: Sequence[str]) -> list[str]:
    """Up to three names or synonyms that are spelled like the wanted one."""
    forms = list(dict.fromkeys(form for name in names for form in (name, *(part.strip() for part in name.split(",")))))
    by_folded = {form.casefold(): form for form in forms}
    return [by_folded[form] for form in difflib.get_close_matches(wanted.casefold(), by_folded, n=3, cutoff=0.4)]


def match_classes(
    named: Sequence[str],
    known: Sequence[str],
    *,
    where: str,
    whose: str = "the model's",
    classes: int | None = None,
    partly: bool = False,
) -> tuple[int, ...]:
    """For each class of `named`, its id in `known`: matched by name, whatever the order and number of classes.

    1,000 WordNet ids are ImageNet's classes, in the order of the ids. Names that are numbers are ids in `known`, unless
    names in `known` are numbers, too. If `known` is empty, it stands for `classes` classes without names, which match
    as many of `named` in order. Matches by number or order are logged, and so are classes of `known` without a match.
    Raises ValueError in one line for a class that matches none or several; with `partly`, the id of one that matches
    none is `UNMATCHED`. `where` and `whose` name the two sets in messages.
    """
    count = len(known) if classes is None else classes
    in_order = not known and len(named) == count and not all(map(is_number, named))
    if in_order or tuple(named) == tuple(known):
        if not known:
            logger.warning("%s: %s %d classes have no names; its own are taken in their order", where, whose, count)
        return tuple(range(count))
    places = _places(named, known, count, where=where, whose=whose, partly=partly)
    if UNMATCHED in places and not partly:
        raise ValueError(f"{where}: {unmatched(named, known, places, whose, count)}")
    foreign = [name for name, place in zip(named, places, strict=True) if place == UNMATCHED]
    if foreign:
        listed = few(foreign, 4)
        logger.info("%s: %d of its classes are none of %s (%s) and left out", where, len(foreign), whose, listed)
    require_one_each(named, places, where)
    missing = [known[one] if known else str(one) for one in sorted(set(range(count)) - set(places))]
    if missing:
        logger.info("%s: has none of %d of %s %d classes (%s)", where, len(missing), whose, count, few(missing, 4))
    return tuple(places)


def _places(
    named: Sequence[str], known: Sequence[str], count: int, *, where: str, whose: str, partly: bool
) -> list[int]:
    """Ids in `known` by WordNet id, number or name; `UNMATCHED` for others. Raises ValueError for several matches."""
    ours, theirs = imagenet_ids(named), imagenet_ids(known)
    if ours is not None and theirs is not None:
        return [theirs.index(one) for one in ours]
    if all(map(is_number, named)) and not any(map(is_number, known)):
        logger.info("%s: its classes are numbers, taken as ids of %s %d classes", where, whose, count)
        places = [int(name) if int(name) < count else UNMATCHED for name in named]
        if partly and UNMATCHED in places:  # then none of the numbers are ids of these classes
            return [UNMATCHED] * len(named)
        return places
    if theirs is not None and not all(map(is_wordnet, named)):
        known = [imagenet_names()[one] for one in theirs]
    return named_places(named, known, where)


def imagenet_ids(names: Sequence[str]) -> list[int] | None:
    """ImageNet's ids of its own names, or of 1,000 WordNet ids; None for other names."""
    if tuple(names) == imagenet_names():
        return list(range(len(names)))
    if len(set(names)) == len(imagenet_names()) == len(names) and all(map(is_wordnet, names)):
        order = {name: number for number, name in enumerate(sorted(names))}
        return [order[name] for name in names]
    return None


def is_number(name: str) -> bool:
    """Whether a name is a number, such as 7 or 007."""
    return re.fullmatch(r"[0-9]+", name) is not None


def is_wordnet(name: str) -> bool:
    """Whether a name is a WordNet id, such as n01440764."""
    return re.fullmatch(r"n[0-9]{8}", name) is not None


def named_places(named: Sequence[str], known: Sequence[str], where: str) -> list[int]:
    """Ids by the exact name, else as `find_class` finds them; `UNMATCHED` for others.

    Raises ValueError for a name that matches several.
    """
    counts = Counter(known)
    exact = {name: number for number, name in enumerate(known) if counts[name] == 1}
    folded = {form for name in known for form in (name.casefold(), *synonyms(name))}
    places = []
    for name in named:
        place = exact.get(name, UNMATCHED)
        if place == UNMATCHED and name.strip().casefold() in folded:
            try:
                place = find_class(name, known)
            except ValueError as error:
                raise ValueError(f"{where}: {error}; or name its classes by their ids") from error
        places.append(place)
    return places


def require_one_each(named: Sequence[str], places: Sequence[int], where: str) -> None:
    """Raises ValueError where two of `named` match the same class."""
    first: dict[int, str] = {}
    for name, place in zip(named, places, strict=True):
        if place != UNMATCHED and place in first:
            raise ValueError(
                f"{where}: its classes {first[place]!r} and {name!r} are the same one; merge or rename them"
            )
        first[place] = name


def unmatched(named: Sequence[str], known: Sequence[str], places: Sequence[int], whose: str, count: int) -> str:
    """The message about classes that match none: what is wrong, and what to do."""
    names = [name for name, place in zip(named, places, strict=True) if place == UNMATCHED]
    if not known or (all(map(is_number, names)) and not any(map(is_number, known))):
        return (
            f"its class {names[0]!r} is none of {whose} {count} classes; name them by their numbers, 0 to {count - 1}"
        )
    if tuple(known) == imagenet_names() and all(map(is_wordnet, names)):
        return (
            f"its classes are {len(names)} WordNet ids such as {names[0]}; only all {len(known)} together tell which "
            "classes they are: rename the folders to the classes' names or numbers, or give all of them"
        )
    more = f", nor are {few(names[1:], 3)}" if len(names) > 1 else ""
    near = close_names(names[0], known)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"its class {names[0]!r} is none of {whose} ({few(known, 8)}){more}{hint}"


def few(names: Sequence[str], count: int) -> str:
    """The first names, with dots for the rest."""
    return ", ".join([*names[:count], *(["..."] if len(names) > count else [])])
