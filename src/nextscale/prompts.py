"""Prompts as numbers: words and the character trigrams in them, hashed; the same in every process and version.

A word that training never showed still has trigrams that it did.
Shapes: B prompts, T tokens of each, N parts of a token.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from unicodedata import category, normalize

import numpy as np

logger = logging.getLogger("nextscale")

LONGEST = 24
"""Characters of a token; longer words are several."""
PARTS = 1 + LONGEST
"""Parts of a token: the word itself, and its trigrams with the word's edges."""


def words_of(prompt: str) -> list[str]:
    """Words and symbols of a prompt, NFKC and case-folded: letters, digits and their marks; each symbol alone.

    Spaces, punctuation and control characters separate words. A word of more than `LONGEST` characters becomes several.
    """
    words, open_word = [], False
    for character in normalize("NFKC", normalize("NFKC", prompt).casefold()):
        kind = category(character)[0]
        if kind in "LN" or (kind == "M" and open_word):
            if open_word and len(words[-1]) < LONGEST:
                words[-1] += character
            else:
                words.append(character)
            open_word = True
        else:
            open_word = False
            if kind == "S":
                words.append(character)
    return words


def parts_of(word: str) -> list[str]:
    """A word between its edges, and the trigrams of that."""
    whole = f"<{word}>"
    return list(dict.fromkeys([whole, *(whole[place : place + 3] for place in range(len(word)))]))


def hashed(texts: Sequence[Sequence[str]], *, tokens: int, rows: int) -> np.ndarray:
    """Rows of a table, 1 to `rows`, of the parts of each text's first words, (B, tokens, N) int64; 0 is none."""
    found = np.zeros((len(texts), tokens, PARTS), dtype=np.int64)
    for text, words in zip(found, texts, strict=True):
        for token, word in zip(text, words, strict=False):
            parts = parts_of(word)
            token[: len(parts)] = [1 + zlib.crc32(part.encode()) % rows for part in parts]
    return found


def tell_left_out(prompt: str, words: int, tokens: int) -> None:
    """Log a line where a prompt has more words than a model reads."""
    if words > tokens:
        shown = " ".join(prompt[:60].split())
        count = "1 word was" if words == tokens + 1 else f"{words - tokens} words were"
        logger.warning("prompt %r...: the model reads %d words; %s left out", shown, tokens, count)
