"""Prompts as words and hashed parts: any text, and the same numbers everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.prompts import LONGEST, PARTS, hashed, parts_of, words_of


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("A red Heart", ["a", "red", "heart"]),
        ("flag: Cote d'Ivoire (new)", ["flag", "cote", "d", "ivoire", "new"]),
        ("STRASSE stra\u00dfe", ["strasse", "strasse"]),
        ("\uff32\uff25\uff24 \ufb01ve", ["red", "five"]),  # full width, a ligature
        ("e\u0301t\u00e9", ["\u00e9t\u00e9"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),  # marks are in a word
        ("\u05dc\u05d1 \u05d0\u05d3\u05d5\u05dd", ["\u05dc\u05d1", "\u05d0\u05d3\u05d5\u05dd"]),
        ("\u2764\ufe0f+1", ["\u2764", "+", "1"]),
        ("a\x00b\n\tc\ud800d", ["a", "b", "c", "d"]),
        ("... \u200d\u0301!", []),
        ("", []),
        ("x" * 50, ["x" * 24, "x" * 24, "xx"]),
    ],
)  # fmt: skip
def test_words_are_found_in_any_text(prompt: str, words: list[str]) -> None:
    assert words_of(prompt) == words


def test_hashes_are_the_same_in_every_version() -> None:
    found = hashed([["red", "\u05dc\u05d1"], []], tokens=3, rows=8192)
    assert found.shape == (2, 3, PARTS) and found.dtype == np.int64
    assert found[0, 0, :5].tolist() == [4175, 2886, 8080, 978, 0] and found[0, 1, :4].tolist() == [7782, 4645, 3854, 0]
    assert not found[0, 2].any() and not found[1].any()


def test_words_that_look_alike_share_parts() -> None:
    assert parts_of("hearts") == ["<hearts>", "<he", "hea", "ear", "art", "rts", "ts>"]
    assert parts_of("a") == ["<a>"]
    shared = set(parts_of("hearts")) & set(parts_of("heart"))
    assert len(shared) == 4 and not set(parts_of("hearts")) & set(parts_of("blue"))
    assert len(parts_of("abcdefghijklmnopqrstuvwxyz"[:LONGEST])) == PARTS


@settings(max_examples=25)
@given(st.text(max_size=60))
def test_any_text_has_rows(prompt: str) -> None:
    words = words_of(prompt)
    found = hashed([words], tokens=4, rows=16)
    assert found.min() >= 0 and found.max() <= 16
    assert (found[0, :, 0] > 0).sum() == min(4, len(words))
