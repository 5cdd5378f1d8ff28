"""Nonsense in generated text: a score with named contributions, from the text alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from core.degeneration.common_words import ARTICLES, LANGUAGES_OF, NEVER_AFTER, SHARES

_MAX_CHARS = 1024
_MIN_WORDS = 10
LIMIT = 1.0
"""The score from which a text counts as nonsense."""

_LONG = 15
_SHORT = 2
_BARE = 5
"""The number of words in a row without a common word, punctuation or a short word from which they count as bare."""

_FEW = 8
_PUNCTUATION_SCORE = 1.5
_MIN_POINT_TOKENS = 40
_TOKENS_A_POINT = 0.4
_MOSTLY = 0.75
_POINTS = re.compile(r"[-,.;:!?_'\"]")
_CUTTING = tuple(",.;:-)!?")
_WITHIN = (" ", ", ")
"""What separates two words within a sentence."""

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_SYNTAX = re.compile(r"[{}()\[\]<>=;|/\\\"'`_#$%&*+@^~:0-9]")
_PUNCTUATION = re.compile(r"[,.;:!?\-\u2013\u2014\u2026\u201c\u201d]")
_CLOSERS = re.compile(r"(?:[^\W\d_]{2}|[^\w\s:;=-])[)\]}]")
"""Closing brackets without those of smileys and of list items, such as `a)`."""
_STRUCTURED = re.compile(r"^[ \t]{2,}\S|^\t\S|^[\w.-]+ ?[:=]|[;{]$", re.MULTILINE)
"""A line that is indented, has a key or ends like code: of a program, a header or settings."""
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_UNSPACED = re.compile(r"[!-~]{28,}")
_CONTROL = re.compile(r"[\ufffd\u0000-\u0008\u000b\u000c\u000e-\u001a\u001c-\u001f\u007f-\u009f\ue000-\uf8ff]")
"""Characters that no text has. One is free, and so are the last ones: an answer may end within a character of several tokens."""
_CONTRACTION = re.compile(
    r"\b(?:I|you|we|they|he|she|it|don|doesn|didn|isn|can|won|wouldn)['\u2019](?=[\s,.])"
    r"|\bI['\u2019](?:re|s)\b|\b(?:you|we|they)['\u2019](?:s|m)\b"
)
_MIXED_SCRIPTS = re.compile(r"[A-Za-z\u00c0-\u024f][\u0370-\u0dff]|[\u0370-\u0dff][A-Za-z\u00c0-\u024f]")
_PATTERNS = {
    "symbols": re.compile(r"[\u2122\u00ae\u00a9\u00a0\u00ad\u200b]"),
    "inner case": re.compile(r"[A-Z]{2}[a-z]{2}|[a-z][A-Z]"),
    "glued": re.compile(r"[^\W\d_][,;:!?\u201c\u201d\u2026\ufffd\u2122&)(*]+[^\W\d_]"),
    "runs": re.compile(r"[,.;:!?]-|-[,.;:]|,\s?[,.;:]|[.;:]\s?,|\.\s?[:;]|[!?][;:,]|-\s-\s|-['_]|['_]-"),
    "spaced": re.compile(r"(?<=\w) [,.;:](?=\s)"),
    "ends": re.compile(r"[.!?]\s*[a-z\u00df-\u00ff]"),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark of nonsense: its rate that is free, the rate from which it weighs fully, and its weight in the score."""

    name: str
    free: float
    full: float
    weight: float
    everywhere: bool = False
    """Whether it counts outside prose too."""


@dataclass(frozen=True, slots=True)
class Nonsense:
    """How much a text looks like nonsense. `score` is the sum of `contributions` (name: value, 0 or more); from `LIMIT` it counts."""

    score: float = 0.0
    contributions: Mapping[str, float] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether the text counts as nonsense."""
        return self.score >= LIMIT


def marks(text: str) -> dict[str, float] | None:
    """Return each mark of nonsense in the text's end, a rate per word; None where there are too few words to judge.

    Code between fences and long strings without spaces (URLs, keys, base64) are left out. `letters`, `syntax` and `structured` are not
    marks: the shares of letters, and of the characters of code and numbers, in the visible text, and that of structured lines.
    """
    tail = _UNSPACED.sub(" ", _FENCED.sub(" ", text[-_MAX_CHARS:])).rstrip("\ufffd")
    found = list(_WORD.finditer(tail))
    count = max(len(found), _MIN_WORDS)
    if len(found) < _MIN_WORDS and not _CONTROL.search(tail):
        return None
    words = [match.group() for match in found]
    spaced = [word for word in words if _is_known(word)]
    upper = [len(word) > 1 and word.isupper() for word in spaced]
    visible = len("".join(tail.split()))
    points = _times(_PUNCTUATION, tail)
    opened = sum(map(tail.count, "([{"))
    return {
        **{name: _times(pattern, tail) / count for name, pattern in _PATTERNS.items()},
        "control": max(0, _times(_CONTROL, tail) - 1) / count,
        **_sequence_marks(tail, found, words),
        **_common_words(spaced, count),
        "contractions": _times(_CONTRACTION, tail) / count if "'" in tail or "\u2019" in tail else 0.0,
        "scripts": 0.0 if tail.isascii() else _times(_MIXED_SCRIPTS, tail) / count,
        "capitals": sum(a != b for a, b in pairwise(upper)) / count,
        "long words": sum(len(word) > _LONG for word in spaced) / count,
        "length": sum(map(len, spaced)) / max(1, len(spaced)),
        "punctuation": points / count,
        "closers": max(0, _times(_CLOSERS, tail) - opened) / count if sum(map(tail.count, ")]}")) > opened else 0.0,
        "letters": sum(map(len, words)) / max(1, visible - points),
        "syntax": _times(_SYNTAX, tail) / max(1, visible),
        "structured": _times(_STRUCTURED, tail) / max(5, tail.count("\n")),
    }


def weigh(rates: Mapping[str, float]) -> Nonsense:
    """Return the score of a text's marks: of each mark its weight times the part of the way from its free to its full rate (0 to 1).

    Marks other than control characters count as far as the text is prose: not for code, tables and numbers.
    """
    prose = _part(rates["letters"], 0.62, 0.75) * (1.0 - _part(rates["syntax"], 0.08, 0.18)) * (1.0 - _part(rates["structured"], 0.3, 0.6))
    values = {
        mark.name: mark.weight * _part(rates[mark.name], mark.free, mark.full) * (1.0 if mark.everywhere else prose) for mark in _MARKS
    }
    contributions = {name: round(value, 3) for name, value in values.items() if value > 0}
    return Nonsense(round(sum(values.values()), 3), contributions)


def _part(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _times(pattern: re.Pattern[str], text: str) -> int:
    return len(pattern.findall(text))


def _is_known(word: str) -> bool:
    """Whether a word is in Latin or Cyrillic script, of whose languages there are lists."""
    first = word[0]
    return first < "\u0250" or "\u0400" <= first < "\u0530" or "\u1e00" <= first < "\u1f00"


def _common_words(spaced: list[str], count: int) -> dict[str, float]:
    """Return how far the share of common words is from prose in the best matching language; no mark where no language applies."""
    if len(spaced) < count / 2:
        return {"uncommon": 0.0, "overcommon": 1.0}
    hits = [0] * len(SHARES)
    for word in spaced:
        for language in LANGUAGES_OF.get(word.lower().replace("\u2019", "'"), ()):
            hits[language] += 1
    share = max(hit / (typical * len(spaced)) for hit, typical in zip(hits, SHARES, strict=True))
    return {"uncommon": 1.0 - share, "overcommon": share}


def _sequence_marks(tail: str, found: list[re.Match[str]], words: list[str]) -> dict[str, float]:
    """Return the rates of the marks that depend on two or more words in a row."""
    pairs = repeats = cut = bare = run = capitals = within = 0
    plain = [word.lower().replace("\u2019", "'") for word in words]
    for at in range(1, len(plain)):
        gap = tail[found[at - 1].end() : found[at].start()]
        before, word = plain[at - 1], plain[at]
        if gap not in _WITHIN:
            run = 0
            cut += before in ARTICLES and gap[:1] in _CUTTING
            continue
        within += 1
        capitals += words[at][0].isupper() and words[at - 1][-1].islower()
        if gap == ", ":
            run = 0
            cut += before in ARTICLES
            continue
        repeats += before == word
        pairs += word in NEVER_AFTER.get(before, ())
        run = run + 1 if len(word) > _SHORT and word.isascii() and word not in LANGUAGES_OF else 0
        bare += _BARE if run == _BARE else run > _BARE
    count = max(1, len(plain))
    rates = {"pairs": pairs / count, "repeats": repeats / count, "articles": cut / count, "bare": bare / count}
    return rates | {"mid capitals": capitals / max(_FEW, within)}


_MARKS = (
    Mark("control", 0.0, 0.05, 1.1, everywhere=True),
    Mark("symbols", 0.0, 0.08, 0.85),
    Mark("inner case", 0.02, 0.2, 0.7),
    Mark("capitals", 0.05, 0.2, 0.6),
    Mark("mid capitals", 0.3, 0.7, 0.2),
    Mark("glued", 0.0, 0.15, 0.3),
    Mark("closers", 0.02, 0.12, 0.7),
    Mark("long words", 0.03, 0.1, 0.5),
    Mark("length", 6.8, 8.5, 0.4),
    Mark("punctuation", 0.55, 1.5, 0.45),
    Mark("runs", 0.02, 0.12, 0.7),
    Mark("spaced", 0.0, 0.06, 0.2),
    Mark("ends", 0.03, 0.1, 0.3),
    Mark("scripts", 0.02, 0.1, 0.4),
    Mark("pairs", 0.005, 0.04, 0.85),
    Mark("repeats", 0.02, 0.08, 0.45),
    Mark("articles", 0.01, 0.06, 0.85),
    Mark("contractions", 0.0, 0.03, 0.85),
    Mark("bare", 0.1, 0.5, 0.85),
    Mark("uncommon", 0.5, 0.9, 0.25),
    Mark("overcommon", 1.5, 2.0, 0.4),
)


def find_nonsense(text: str, completion_tokens: int) -> Nonsense:
    """Return how much the end of a text looks like nonsense; score 0 where it has too few words to judge.

    `completion_tokens` are those of the text. A text of few words counts when it is mostly punctuation of nearly a token each.
    """
    found = marks(text)
    if found is not None:
        judged = weigh(found)
        if judged.found:
            return judged
    else:
        judged = Nonsense()
    if _is_punctuation(text, completion_tokens):
        return Nonsense(_PUNCTUATION_SCORE, {"only punctuation": _PUNCTUATION_SCORE})
    return judged


def _is_punctuation(text: str, completion_tokens: int) -> bool:
    """Whether a text is little but punctuation that was written token by token: a drawn line has many characters a token."""
    visible = sum(map(len, text.split()))
    if completion_tokens < _MIN_POINT_TOKENS or completion_tokens < _TOKENS_A_POINT * visible:
        return False
    return _times(_POINTS, text) > _MOSTLY * visible
