"""Loops in generated text: exact ones, counters that only count, and variations of the same few sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from core.degeneration.exact import MIN_TOKENS, TAIL_CHARS, repeating_tail, z_array

_TOKEN = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+|\d+|[^\w\s]|_|\n")
_SURE_COPIES = 12
"""Copies of a unit with letters that are a loop however the answer ended."""
_GRAM = 4
_WORD_CHARS = 2048
_MAX_NOVEL = 0.28
"""The share of 4-grams of a varied loop that did not occur before in the tail."""
_COUNTER_COPIES = 5
_COUNTER_WORDS = 4
_COUNTER_LETTERS = 14
_MIN_LETTERS = 0.6
"""The share of letters in the visible characters of a varied loop. Tables, JSON and code repeat their keys and do not loop."""
_SYNTAX = frozenset("(){}[]<>=;|/\\_`#%&+@~^$")
_MAX_SYNTAX = 0.05
_MAX_NUMBERS = 0.2
_UNSPACED = 0x0E00
"""The first character of scripts whose words are single characters here: Thai and beyond."""
_MIN_DISTINCT = 4
_MIN_WORD = 2.2


class LoopKind(StrEnum):
    """`exact`: copies. `counter`: copies in which only numbers increase evenly. `varied`: few word sequences in changing order."""

    EXACT = "exact"
    COUNTER = "counter"
    VARIED = "varied"


@dataclass(frozen=True, slots=True)
class FoundLoop:
    """A loop at the end of a text. `begin` is an offset in characters; `tokens` is its length, estimated from its share of the text."""

    kind: LoopKind
    begin: int
    tokens: float


@dataclass(frozen=True, slots=True)
class _Limits:
    """The least length of a loop in tokens, by kind; `symbols` is for an exact loop without letters."""

    words: float
    symbols: float
    counter: float
    varied: float


_CUT = _Limits(words=24, symbols=160, counter=48, varied=64)
_ENDED = _Limits(words=96, symbols=400, counter=160, varied=128)
"""A model that loops rarely ends its answer; a poem, a table and a list do. So an answer that ended on its own needs more."""


def find_loop(text: str, completion_tokens: int, finish_reason: str | None) -> FoundLoop | None:
    """Return the loop in which `text` ends, or None. `completion_tokens` are those of the whole text.

    Exact: `repeating_tail`, with letters or long. Counter: at least 5 copies of a unit with 4 words and 14 letters in which each
    number is constant or grows evenly. Varied: prose of which at most 28 % of the sequences of 4 words are new; its begin maximises the
    sum of (0.28 - new) over the tail (the maximum-sum suffix). An answer that ended on its own (`stop`) must be longer.
    O(len(text)): reads the last 4,096 characters for an exact loop, and 2,048 for the others.
    """
    limits = _ENDED if finish_reason == "stop" else _CUT
    if completion_tokens < MIN_TOKENS or not text:
        return None
    tokens_per_char = completion_tokens / len(text)
    return _exact(text, completion_tokens, limits) or _by_words(text, max(0, len(text) - _WORD_CHARS), tokens_per_char, limits)


def _exact(text: str, completion_tokens: int, limits: _Limits) -> FoundLoop | None:
    if not _recurs(text, completion_tokens):
        return None
    loop = repeating_tail(text, completion_tokens)
    if loop is None:
        return None
    if not any(char.isalpha() for char in text[-loop.period :]):
        enough = loop.tokens >= limits.symbols
    else:
        enough = loop.tokens >= limits.words or loop.length >= _SURE_COPIES * loop.period
    if not enough:
        return None
    return FoundLoop(LoopKind.EXACT, len(text) - loop.length, loop.tokens)


def _recurs(text: str, completion_tokens: int) -> bool:
    """Whether the last characters occur before: a loop of 4 copies and 24 tokens repeats three quarters of itself. Excludes most texts."""
    suffix = max(1, min(24, int(18 * len(text) / completion_tokens)))
    return text.rfind(text[-suffix:], max(0, len(text) - TAIL_CHARS), len(text) - 1) >= 0


def _by_words(text: str, start: int, tokens_per_char: float, limits: _Limits) -> FoundLoop | None:
    found = [(match.group(), match.start()) for match in _TOKEN.finditer(text, start)]
    if len(found) < 4 * _GRAM:
        return None
    words, places = [one[0] for one in found], [one[1] for one in found]
    at = _counting(words)
    if at is not None and (tokens := (len(text) - places[at]) * tokens_per_char) >= limits.counter:
        return FoundLoop(LoopKind.COUNTER, places[at], tokens)
    at = _varying(words)
    if at is not None and (tokens := (len(text) - places[at]) * tokens_per_char) >= limits.varied and _is_prose(words[at:]):
        return FoundLoop(LoopKind.VARIED, places[at], tokens)
    return None


def _counting(words: Sequence[str]) -> int | None:
    """Return where the longest tail begins whose copies differ only in numbers that grow evenly; None when there is none."""
    masked = ["#" if word.isdecimal() else word for word in words]
    last = "\0".join(masked[-_GRAM:])
    if "#" not in masked or "\0".join(masked[:-1]).rfind(last) < 0:
        return None
    reach = z_array(masked[::-1])
    for period in range(_GRAM, len(masked) // _COUNTER_COPIES + 1):
        length = reach[period] + period
        unit = masked[-period:]
        if length < _COUNTER_COPIES * period or "#" not in unit:
            continue
        letters = [word for word in unit if word[0].isalpha()]
        if len(letters) < _COUNTER_WORDS or sum(map(len, letters)) < _COUNTER_LETTERS:
            return None  # longer periods are multiples of this one
        return len(words) - length if _evenly(words, length, period) else None
    return None


def _evenly(words: Sequence[str], length: int, period: int) -> bool:
    """Whether each number of the repeated unit is constant or grows by the same step from copy to copy."""
    for column in range(1, period + 1):
        values = words[-column : -length - 1 : -period]
        if values[0].isdecimal():
            numbers = [int(value[-15:]) for value in values]
            if len({earlier - later for later, earlier in pairwise(numbers)}) > 1:
                return False
    return True


def _varying(words: Sequence[str]) -> int | None:
    """Return where the tail with few new 4-grams begins, None where there is none. The numbers of a list's items count as equal."""
    masked = ["#" if word.isdecimal() and before == "\n" else word for before, word in zip(["\n", *words], words, strict=False)]
    seen: set[tuple[str, ...]] = set()
    new = []
    for gram in zip(masked, masked[1:], masked[2:], masked[3:], strict=False):
        new.append(gram not in seen)
        seen.add(gram)
    best, total, begin = 0.0, 0.0, None
    for at in range(len(new) - 1, -1, -1):
        total += _MAX_NOVEL - new[at]
        if total > best:
            best, begin = total, at
    return begin


def _is_prose(words: Sequence[str]) -> bool:
    """Whether a tail consists of words, and of more than a few: not of a table's cells, keys or single letters."""
    own = [word for word in words if word[0].isalpha()]
    letters = sum(map(len, own))
    if len(set(own)) < _MIN_DISTINCT or letters < _MIN_LETTERS * sum(map(len, words)):
        return False
    if sum(word in _SYNTAX for word in words) > _MAX_SYNTAX * len(words) or sum(map(str.isdecimal, words)) > _MAX_NUMBERS * len(words):
        return False
    return ord(max(own)[0]) >= _UNSPACED or letters >= _MIN_WORD * len(own)
