"""Whether a text is in a language other than English, by its common words."""

from __future__ import annotations

import re

from core.degeneration.common_words import LANGUAGES_OF, SHARES

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_LEAST_LETTERS, _LEAST_WORDS = 2, 4
"""Shorter words are not counted, and so many different common words are required: random tokens repeat a few."""
_LEAST_SHARE = 0.5
"""Of the typical share of common words."""


def in_other_language(text: str) -> bool:
    """Return whether the text has at least half of the typical share of common words of another language, and a smaller part of English's.

    The languages are those of `common_words`, in Latin and Cyrillic script; a text in another script has no common words.
    """
    words = [word for match in _WORD.finditer(text) if len(word := match.group().lower().replace("\u2019", "'")) >= _LEAST_LETTERS]
    found: list[list[str]] = [[] for _ in SHARES]
    for word in words:
        for language in LANGUAGES_OF.get(word, ()):
            found[language].append(word)
    parts = [len(each) / (typical * max(1, len(words))) for each, typical in zip(found, SHARES, strict=True)]
    return any(
        part >= max(_LEAST_SHARE, parts[0]) and len(set(each)) >= _LEAST_WORDS for part, each in zip(parts[1:], found[1:], strict=True)
    )
