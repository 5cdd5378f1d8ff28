"""The part of a service's log that shows why it ended: the last exception, else the last lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_TAIL_BYTES = 64_000
_LINES = 3
_WIDTH = 300
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^(?:\s*\|\s*)?([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Refused|Fault|Transient))(?::\s*(.*))?$")
_PREFIX = re.compile(r"^(?:\[[^\]]*\]\s*)?(?:\d{4}-\d\d-\d\d[ T])?(?:\d\d:\d\d:\d\d[.,]\d+\s*\|?\s*)?")
_NOISE = re.compile(r"^(?:INFO|DEBUG|\|?\s*DEBUG|\s*File \"|\s*[~^]+\s*$)")


def size(log: Path) -> int:
    """Return the size of a log, at which a later `excerpt` starts."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def excerpt(log: Path, since: int = 0) -> str:
    """Return the last exception after byte `since`, else the last lines that are neither progress nor frames of a traceback."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            start = since if since <= end else 0  # the log was begun again
            file.seek(max(start, end - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "it wrote nothing"
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return exception(lines) or " / ".join(_plain(lines)[-_LINES:]) or "it wrote nothing"


def exception(lines: Sequence[str]) -> str:
    """Return the last exception with its message, empty where there is none: the first unindented line after its traceback's frames.

    Of a chain (`During handling of ...`) the last one counts: it is what ended the program.
    """
    found = ""
    inside = False
    for line in lines:
        if _TRACEBACK in line:
            inside = True
        elif inside and not line.lstrip("| ").startswith(("File ", "~", "^")) and (named := _EXCEPTION.match(line)):
            found, inside = f"{named[1].rpartition('.')[2]}: {named[2]}" if named[2] else named[1], False
    return found[:_WIDTH]


def _plain(lines: Sequence[str]) -> list[str]:
    """Return the lines that say something: errors and warnings where there are any."""
    said = [_PREFIX.sub("", line).strip()[:_WIDTH] for line in lines if not _NOISE.match(_PREFIX.sub("", line))]
    loud = [line for line in said if re.match(r"(?:ERROR|CRITICAL|FATAL|error)\b", line)]
    return loud or said
