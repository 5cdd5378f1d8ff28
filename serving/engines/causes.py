"""Why an engine did not start, in one sentence for its submitter, from the lines of its log."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

START = "seatrial: start of engine"
"""Begins the line that the keeper writes into the log before each start."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What went wrong. `permanent`: another start from the same weights ends the same way."""

    text: str
    permanent: bool = False


def cause(lines: Sequence[str]) -> Cause:
    """Return the cause that the last start's lines show; the most telling one, or the last line that says anything."""
    recent = [_without_prefix(line) for line in _since_last_start(lines)]
    for pattern, explain in _KNOWN:
        for line in recent:
            found = pattern.search(line)
            if found is not None:
                return explain(found)
    return _last_error(recent)


class Mends(Enum):
    """Who can mend what keeps an engine from starting."""

    SUBMITTER = "submitter"
    OPERATOR = "operator"
    EITHER = "either"


def who_mends(detail: str) -> Mends:
    """Return who can mend what an engine's state tells. What nobody has foreseen (an exception of vLLM's) may be either's."""
    if _OF_THE_MODEL.search(detail):
        return Mends.SUBMITTER
    return Mends.OPERATOR if _OF_THE_PLATFORM.search(detail) else Mends.EITHER


_OF_THE_MODEL = re.compile(
    r"weights refused: |vLLM does not serve this architecture: |the tokenizer cannot be loaded: |the longest answer does not fit: "
)
_OF_THE_PLATFORM = re.compile(
    r"its image cannot be |its container cannot be made: |its pod is not admitted: |no node has room for it: |waits for its |asleep "
    r"|weights cannot be read: |its port was taken |the engine's environment lacks |the disk is full"
)
"""In the words of this module and of `kubernetes/reading.py`."""


def _refused(found: re.Match[str]) -> Cause:
    return Cause(f"weights refused: {found[1].strip()}", permanent=True)


def _unreadable(found: re.Match[str]) -> Cause:
    return Cause(f"weights cannot be read: {found[1].strip()}")


def _unsupported(found: re.Match[str]) -> Cause:
    return Cause(f"vLLM does not serve this architecture: {found[1].strip()}", permanent=True)


def _no_template(found: re.Match[str]) -> Cause:
    return Cause(f"the tokenizer cannot be loaded: {found[0].strip()}", permanent=True)


def _too_long(found: re.Match[str]) -> Cause:
    return Cause(f"the longest answer does not fit: {found[0].strip()}", permanent=True)


def _memory(_found: re.Match[str]) -> Cause:
    return Cause("out of memory; give the engine less (models.engine_memory_bytes) or stop other engines")


def _port(_found: re.Match[str]) -> Cause:
    return Cause("its port was taken by another process in the meantime")


def _no_module(found: re.Match[str]) -> Cause:
    return Cause(f"the engine's environment lacks {found[1]}; set it up with `make` and look at `seatrial doctor`")


def _full(_found: re.Match[str]) -> Cause:
    return Cause("the disk is full; free space and try again")


_KNOWN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Cause]], ...] = (
    (re.compile(r"seatrial: weights refused: (.*)"), _refused),
    (re.compile(r"seatrial: weights not readable: (.*)"), _unreadable),
    (re.compile(r"Model architectures (.*?) (?:are|failed to be) (?:not supported|inspected)"), _unsupported),
    (re.compile(r"[Uu]nsupported (?:model )?architecture:? (.*)"), _unsupported),
    (re.compile(r"model type `?([\w-]+)`? but Transformers does not recognize"), _unsupported),
    (re.compile(r"User-specified max_model_len .*|max seq len .* is larger than .*KV cache.*"), _too_long),
    (re.compile(r"(?:Can't|Cannot|Couldn't) (?:load|instantiate).*tokenizer.*"), _no_template),
    (
        re.compile(
            r"OutOfMemoryError|out of memory|Cannot allocate memory|can't allocate memory|MemoryError|less than requested memory|\bKilled\b"
        ),
        _memory,
    ),
    (re.compile(r"[Aa]ddress already in use|EADDRINUSE"), _port),
    (re.compile(r"No space left on device"), _full),
    (re.compile(r"ModuleNotFoundError: No module named (\S+)"), _no_module),
)

_PREFIX = re.compile(
    r"^(?:\([^)]*(?:pid|APIServer|EngineCore)[^)]*\)\s*)?(?:(?:ERROR|WARNING|INFO|CRITICAL)\s+[\d-]+\s+[\d:.,]+\s+\[[^\]]*\]\s*)?"
)
_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Refused|Exit)\b: .+")
_FOLLOWS = re.compile(r"Engine core initialization failed|See root cause above|server process exited")


def _since_last_start(lines: Sequence[str]) -> Sequence[str]:
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith(START):
            return lines[index + 1 :]
    return lines


def _without_prefix(line: str) -> str:
    return _PREFIX.sub("", line.rstrip())


def _last_error(lines: Sequence[str]) -> Cause:
    """Take the last exception that is not merely the echo of an earlier one; the engine's children fail first."""
    errors = [line.strip() for line in lines if _ERROR.match(line.strip())]
    telling = [line for line in errors if _FOLLOWS.search(line) is None]
    spoken = [line.strip() for line in lines if line.strip()]
    for candidates in (telling, errors, spoken):
        if candidates:
            return Cause(candidates[-1][:400])
    return Cause("it ended without a word")
