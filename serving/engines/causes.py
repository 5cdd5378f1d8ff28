"""Why an engine ended or does not start: a cause for programs and one sentence for people.

It comes from two sources, how its processes ended and the lines of its log. A signal by which the kernel ends a faulty process outranks
every line; a line whose meaning is known outranks an exception; an exception outranks an exit code. Log lines about requests are
never a cause.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from core.engines import EngineCause
from serving.engines.endings import CRASHES, Ending

START: Final = "seatrial: start of engine"
"""Begins the line that the engine supervisor writes into the log before each start."""
UNKNOWN_ENDING: Final = Ending()
_MOST: Final = 400


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What went wrong. `permanent`: another start from the same weights ends the same way."""

    cause: EngineCause
    text: str
    permanent: bool = False


def diagnose(lines: Sequence[str], ending: Ending = UNKNOWN_ENDING, *, memory: str = "") -> Diagnosis:
    """Return the cause that the lines since the last start and the server's ending show. `memory` names the limits, for people."""
    said = [_line(line) for line in _since_last_start(lines)]
    parts = [part for part in map(_part, said) if part is not None]
    return (
        _crash(parts, ending, said)
        or _known(said, memory)
        or _kill(parts, ending, said, memory)
        or _exception(said, ending)
        or _exit(parts, ending, said)
    )


def killed(memory: str, who: str = "it") -> Diagnosis:
    """Return what SIGKILL means where nothing tells who sent it."""
    limit = f": {memory}" if memory else ""
    return Diagnosis(EngineCause.KILLED, f"{who} was killed (SIGKILL), probably because memory ran out{limit}")


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    of_engine: bool
    """Printed by the engine process or a worker, and not by the server before them."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A process behind the server that ended; where in the log it is reported."""

    name: str
    ending: Ending
    line: _Line


_PREFIX: Final = re.compile(
    r"^(?:\((?P<process>[^)]*(?:pid|APIServer|EngineCore)[^)]*)\)\s*)?"
    r"(?:(?:ERROR|WARNING|INFO|CRITICAL)\s+[\d-]+\s+[\d:.,]+\s+\[[^\]]*\]\s*)?"
)
_ENDED: Final = re.compile(r"seatrial: process (?P<name>\S+) \(pid \d+\) (?:ended by (?P<signal>SIG\w+)|exited with code (?P<code>\d+))")
"""The line that `seatrial_engine.endings` writes; the two are compared by a test."""
_ERROR: Final = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Refused|Exit)\b: .+")
_ECHO: Final = re.compile(
    r"Engine core initialization failed|See root cause above|See stack trace \(above\)|EngineDeadError|server process exited|CancelledError"
)
_NATIVE: Final = re.compile(r"^\s*(?:what\(\):|terminate called|free\(\): |malloc\(\)|.*Assertion .* failed)")
_QUIET: Final = re.compile(r"^(?:INFO|DEBUG)\b|\"(?:GET|POST) /|^seatrial: ")

_OUT_OF_MEMORY: Final = re.compile(
    r"OutOfMemoryError|out of memory|Cannot allocate memory|can't allocate memory|MemoryError|less than requested memory|\bKilled\b"
)


@dataclass(frozen=True, slots=True)
class _Known:
    """A line whose meaning is known. `text` may take the pattern's first group or, without one, the whole match."""

    pattern: re.Pattern[str]
    cause: EngineCause
    text: str
    permanent: bool = False


_KNOWN: Final = (
    _Known(re.compile(r"seatrial: weights refused: (.*)"), EngineCause.WEIGHTS_REFUSED, "weights refused: {}", permanent=True),
    _Known(re.compile(r"seatrial: weights not readable: (.*)"), EngineCause.WEIGHTS_UNREADABLE, "weights cannot be read: {}"),
    *(
        _Known(re.compile(pattern), EngineCause.UNSUPPORTED_ARCHITECTURE, "vLLM does not serve this architecture: {}", permanent=True)
        for pattern in (
            r"Model architectures (.*?) (?:are|failed to be) (?:not supported|inspected)",
            r"[Uu]nsupported (?:model )?architecture:? (.*)",
            r"model type `?([\w-]+)`? but Transformers does not recognize",
        )
    ),
    _Known(
        re.compile(r"User-specified max_model_len .*|max seq len .* is larger than .*KV cache.*"),
        EngineCause.CONTEXT_TOO_LONG,
        "the longest answer does not fit: {}",
        permanent=True,
    ),
    _Known(
        re.compile(r"(?:Can't|Cannot|Couldn't) (?:load|instantiate).*tokenizer.*"),
        EngineCause.TOKENIZER,
        "the tokenizer cannot be loaded: {}",
        permanent=True,
    ),
    _Known(re.compile(r"[Aa]ddress already in use|EADDRINUSE"), EngineCause.PORT_TAKEN, "another process took its port in the meantime"),
    _Known(re.compile(r"No space left on device"), EngineCause.DISK_FULL, "the disk is full; free space and try again"),
    _Known(
        re.compile(r"ModuleNotFoundError: No module named (\S+)"),
        EngineCause.ENVIRONMENT,
        "the engine's environment lacks {}; set it up with `make` and run `seatrial doctor`",
    ),
)


def _crash(parts: Sequence[_Part], ending: Ending, said: Sequence[_Line]) -> Diagnosis | None:
    """Find a process that the kernel ended for a fault of its own; the engine's ends before its server does."""
    for name, one in [*((f"the process {part.name}", part.ending) for part in parts), ("it", ending)]:
        crash = CRASHES.get(one.signal)
        if crash is not None:
            words = [line.text.strip() for line in said if _NATIVE.search(line.text)]
            more = f": {words[-1][:_MOST]}" if words and crash.cause is EngineCause.ABORTED else _last_output(said)
            return Diagnosis(crash.cause, f"{name} was ended by {one.signal} ({crash.text}){more}")
    return None


def _known(said: Sequence[_Line], memory: str) -> Diagnosis | None:
    for known in _KNOWN:
        for line in said:
            found = known.pattern.search(line.text)
            if found is not None:
                words = (found[1] if known.pattern.groups else found[0]).strip()
                return Diagnosis(known.cause, known.text.format(words), permanent=known.permanent)
    if any(_OUT_OF_MEMORY.search(line.text) for line in said):
        limit = f": {memory}" if memory else ""
        return Diagnosis(
            EngineCause.OUT_OF_MEMORY, f"out of memory{limit}; give the engine less (models.engine_memory_bytes) or stop other engines"
        )
    return None


def _kill(parts: Sequence[_Part], ending: Ending, said: Sequence[_Line], memory: str) -> Diagnosis | None:
    """Find a process that somebody killed. A server that gives up kills what is left of its engine: then its exception is the cause."""
    if ending.signal == "SIGKILL":
        return _with_last_output(killed(memory), said)
    for part in parts:
        before = said[: said.index(part.line)]
        if part.ending.signal == "SIGKILL" and not _exceptions([line for line in before if line.of_engine]):
            return _with_last_output(killed(memory, f"the process {part.name}"), before)
    return None


def _with_last_output(found: Diagnosis, said: Sequence[_Line]) -> Diagnosis:
    return replace(found, text=found.text + _last_output(said))


def _last_output(said: Sequence[_Line]) -> str:
    """Return the last line that is neither about a request nor an echo, as the end of a sentence; empty without one."""
    spoken = [line.text.strip() for line in said]
    last = next((text for text in reversed(spoken) if text and not _QUIET.search(text) and not _ECHO.search(text)), "")
    return f"; its last output: {last[:_MOST]}" if last else ""


def _exception(said: Sequence[_Line], ending: Ending) -> Diagnosis | None:
    """Take the last exception that is not merely the echo of an earlier one; the engine's own before its server's."""
    for candidates in ([line for line in said if line.of_engine], said):
        found = _exceptions(candidates)
        if found:
            note = "" if ending.known else f"; {_UNWITNESSED}"
            return Diagnosis(EngineCause.EXCEPTION, found[-1][:_MOST] + note)
    return None


_UNWITNESSED: Final = "its exit status is not known, because its parent process ended before it did"


def _exit(parts: Sequence[_Part], ending: Ending, said: Sequence[_Line]) -> Diagnosis:
    """Say how it ended, where nothing says why."""
    words = _last_output(said) or " without an error message"
    part = next((part for part in parts if part.ending.code), None)
    if part is not None:
        return Diagnosis(EngineCause.EXITED, f"the process {part.name} ended with exit code {part.ending.code}{words}")
    if ending.signal:
        return Diagnosis(EngineCause.SIGNALLED, f"it was ended by {ending.signal}{_last_output(said)}")
    if ending.code is not None:
        return Diagnosis(EngineCause.EXITED, f"it ended with exit code {ending.code}{words}")
    return Diagnosis(EngineCause.UNKNOWN, f"it ended{words}; {_UNWITNESSED}")


def _exceptions(lines: Sequence[_Line]) -> list[str]:
    found = [line.text.strip() for line in lines]
    return [text for text in found if _ERROR.match(text) and _ECHO.search(text) is None]


def _since_last_start(lines: Sequence[str]) -> Sequence[str]:
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith(START):
            return lines[index + 1 :]
    return lines


def _line(raw: str) -> _Line:
    found = _PREFIX.match(raw)
    process = (found["process"] if found else "") or ""
    return _Line(raw.rstrip()[found.end() if found else 0 :], bool(process) and "APIServer" not in process)


def _part(line: _Line) -> _Part | None:
    found = _ENDED.search(line.text)
    if found is None:
        return None
    ending = Ending(signal=found["signal"]) if found["signal"] else Ending(code=int(found["code"]))
    return _Part(found["name"], ending, line)
