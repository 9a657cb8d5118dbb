"""Names, captions and splits of the emoji set with texts: what `build_text.py` writes, without the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

STYLES = ("flat", "3d")
"""Words of the prompt for Noto and for Fluent 3D."""
HELDOUT_EVERY = 10
CANDIDATES = 20
QUESTIONS = 100
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
TONE_EVERY = 12
"""Of every this many people, one skin tone is held out."""
COLOURED = (
    "green heart", "purple heart", "brown heart", "blue circle", "orange circle", "brown circle", "yellow square",
    "red square", "blue book", "green apple",
)  # fmt: skip
ROLES = (
    "woman astronaut", "man cook", "woman farmer", "man firefighter", "woman mechanic", "man teacher", "woman judge",
    "man singer", "woman pilot", "man artist", "woman vampire", "man elf",
)  # fmt: skip
OTHERS = (
    "family, man, woman, girl", "family, woman, woman, boy", "family, man, girl, boy", "man, curly hair", "woman, bald",
    "pig face", "rabbit face", "tiger face",
)  # fmt: skip
"""Combinations held out: colours of objects, genders of roles, and others. All their skin tones are held out too."""


@dataclass(frozen=True)
class Named:
    """An emoji and what it is called."""

    code: str
    "Its code points, `1f469-200d-1f373`, without the variation selector fe0f."
    name: str
    "As a prompt says it: `woman cook, light skin tone`."
    keywords: tuple[str, ...]
    label: int
    base: int
    "Number of the emoji that it is a skin tone of."

    @property
    def base_name(self) -> str:
        """The name without its skin tone."""
        parts = self.name.split(", ")
        return ", ".join(part for part in parts if not part.endswith("skin tone"))

    @property
    def tone(self) -> str:
        """Its skin tone, if it has a single one."""
        found = [part.removesuffix(" skin tone") for part in self.name.split(", ") if part.endswith("skin tone")]
        return found[0] if len(found) == 1 else ""


def readable(name: str) -> str:
    """A name of Unicode's as a prompt says it: `flag: France` is `flag of France`, `person: bald` is `person, bald`."""
    kind, separator, rest = name.partition(": ")
    if not separator:
        return name
    return f"flag of {rest}" if kind == "flag" else f"keycap {rest}" if kind == "keycap" else f"{kind}, {rest}"


def with_article(name: str) -> str:
    """`a red heart`, `an apple`; a plural or a proper name as it is."""
    if name.startswith("flag of "):
        return name
    noun = name.split(",")[0].split(" with ")[0].split(" in ")[0].split(" of ")[0]
    if noun.endswith("s") or name[:1].isupper() or not name[:1].isalpha():
        return name
    return f"an {name}" if name[0] in "aeio" else f"a {name}"


def captions_of(one: Named, style: str) -> list[str]:
    """What a picture may be called: its name with and without the style, and its keywords."""
    told = [f"{with_article(one.name)}, {style}", f"{one.name}, {style}", one.name]
    if one.keywords:
        told.append(f"{', '.join(one.keywords)}, {style}")
    return list(dict.fromkeys(told))


@dataclass(frozen=True)
class Combination:
    """Words that occur in training, but not together."""

    kind: str
    name: str
    words: tuple[str, str]


def combinations(emoji: Sequence[Named]) -> list[Combination]:
    """The combinations held out, by name, whose words occur in names of other emoji."""
    known = {one.name for one in emoji}
    found = [Combination("colour", name, words_of(name)) for name in COLOURED]
    found += [Combination("role", name, words_of(name)) for name in ROLES]
    found += [Combination("other", name, last_apart(name)) for name in OTHERS]
    taken = {one.name for one in found}
    people = list(dict.fromkeys(one.base_name for one in emoji if one.tone and one.base_name not in taken))
    toned = {(one.base_name, one.tone): one.name for one in emoji}
    for place, name in enumerate(people[TONE_EVERY // 2 :: TONE_EVERY]):
        tone = TONES[place % len(TONES)]
        found.append(Combination("skin tone", toned.get((name, tone), ""), (name, f"{tone} skin tone")))
    return [one for one in found if one.name in known]


def words_of(name: str) -> tuple[str, str]:
    first, rest = name.split(" ", 1)
    return first, rest


def last_apart(name: str) -> tuple[str, str]:
    first, rest = name.rsplit(", " if "," in name else " ", 1)
    return first, rest


def split_of(emoji: Sequence[Named], held: Iterable[Combination]) -> list[str]:
    """`train`, `heldout` or `combinations` for each emoji: combinations, with their skin tones, then every tenth base.

    A base that a combination is about, or that shares words with one, stays in training. Raises ValueError where a word
    of a combination does not occur in training.
    """
    held = list(held)
    names = {one.name for one in held}
    toned = {one.words[0] for one in held if one.kind == "skin tone"}
    needed = {word for one in held for word in one.words if one.kind != "skin tone"}
    splits = []
    for one in emoji:
        apart = one.name in names or one.base_name in names
        kept = one.base_name in toned or any(holds(one.base_name, word) for word in needed)
        splits.append("combinations" if apart else "heldout" if one.base % HELDOUT_EVERY == 0 and not kept else "train")
    trained = {one.name for one, split in zip(emoji, splits, strict=True) if split == "train"}
    for one in held:
        for word in one.words:
            if not any(holds(name, word) for name in trained):
                raise ValueError(f"no emoji in training is named {word!r}, which {one.name!r} needs")
    return splits


def holds(name: str, words: str) -> bool:
    """Whether words occur in a name as whole words."""
    return f" {words} ".replace(",", "") in f" {name} ".replace(",", "")


def candidates_of(one: Combination, emoji: Sequence[Named], order: np.random.Generator) -> list[str]:
    """The name of a combination and those that a picture of it is told from: thirds that share its words, and others.

    Of the names that share a word those of as many words come first: the more alike, the harder. Skin tones are
    candidates of skin tones only. What is missing to 20 is filled up with any other names.
    """
    shared: list[list[str]] = [[], [], []]
    for place in order.permutation(len(emoji)):
        other = emoji[place]
        toned = other.name != other.base_name
        if other.name != one.name and (not toned or (one.kind == "skin tone" and other.tone)):
            shared[next((n for n, word in enumerate(one.words) if holds(other.name, word)), 2)].append(other.name)
    chosen = [one.name]
    for names, most in zip(shared, (7, 13, CANDIDATES), strict=True):
        length = len(one.name.split()) if most < CANDIDATES else None
        alike = sorted(names, key=lambda name: 0 if length is None else abs(len(name.split()) - length))
        chosen += alike[: most - len(chosen)]
    return sorted(chosen)


def questions(emoji: Sequence[Named], splits: Sequence[str]) -> dict[str, list]:
    """100 names of training from all over it, in both styles, to be told from all its names without skin tones."""
    trained = [one for one, split in zip(emoji, splits, strict=True) if split == "train"]
    known = [one.name for one in trained if one.name == one.base_name]
    chosen = known[:: max(1, len(known) // QUESTIONS)][:QUESTIONS]
    styles = [STYLES[0 if name.startswith("flag of ") else number % len(STYLES)] for number, name in enumerate(chosen)]
    asked = [
        {"name": name, "prompt": f"{with_article(name)}, {style}"} for name, style in zip(chosen, styles, strict=True)
    ]
    return {"questions": asked, "candidates": known}


def summary(splits: Sequence[str]) -> str:
    """Numbers of emoji by split."""
    return ", ".join(f"{count:,} {split}" for split, count in sorted(Counter(splits).items()))
