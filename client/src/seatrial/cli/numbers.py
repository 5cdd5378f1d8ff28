"""Numbers for people, by the rules of the platform's own pages (`core/shown.py`; a test compares the two). JSON stays exact."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

_NOISE = 1e-9
"""Smaller than this is what floating point leaves of zero."""
_SCIENTIFIC = 1e-3
_WHOLE = 100
_TENTHS = 9.95
"""Seconds below which tenths are worth reading."""
_MILLIS = 0.0995
"""Seconds below which milliseconds are."""
_HUGE = 1e15
_NOT_FINITE = {"None": "-", "nan": "-", "inf": "infinite", "-inf": "-infinite"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KIB = 1024
_LABELS = {
    "ttft_s": "time to first token",
    "ttft_p95_s": "time to first token p95",
    "tokens_per_s": "tokens per second",
    "low": "95 % interval from",
    "high": "95 % interval to",
    "loop_rate": "loops",
    "median_seconds": "median time",
    "stable_loop_rate": "loops of the stable version",
    "nonsense_rate": "nonsense",
    "stable_nonsense_rate": "nonsense of the stable version",
    "improbable_rate": "improbable answers",
    "judge_mean": "log-probability under the stable version",
    "judge_stable_mean": "log-probability of the answers of the stable version",
    "flawed_rate": "other flaws",
    "allowed": "allowed loops",
    "sandbox_cpu_s": "sandbox CPU time",
}
_PARTS = frozenset({"low", "high", "allowed", "share", "difference", "baseline", "candidate"})
_HEADLINE = (
    "pass_at_1",
    "loop_rate",
    "nonsense_rate",
    "improbable_rate",
    "flawed_rate",
    "median_seconds",
    "mean_tokens",
    "problems",
    "samples",
)
_SHOWN_ABOVE_ZERO = frozenset({"nonsense_rate", "improbable_rate", "flawed_rate"})
_MOST = 6
_PASS_AT = re.compile(r"pass_at_(\d+)")


def number(value: float | None) -> str:
    """Return a number with three significant digits: `0.0423`, `1.23`, `12,346`; what is only floating-point noise is `0`."""
    if value is None or not math.isfinite(value):
        return _NOT_FINITE[str(value)]
    size = abs(value)
    if size < _NOISE:
        return "0"
    if size >= _HUGE or size < _SCIENTIFIC:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= _WHOLE or value == int(value) else f"{value:.3g}"


def part(value: float | None) -> str:
    """Return a part of one as a percentage: `45.8 %`."""
    if value is None or math.isnan(value):
        return "-"
    tiny = 0 < abs(value) < 0.0005  # noqa: PLR2004 - would be shown as 0.0 %
    return ("< 0.1 %" if value > 0 else "> -0.1 %") if tiny and abs(value) > _NOISE else f"{value * 100 + 0.0:.1f} %"


def chance(value: float | None) -> str:
    """Return a probability or p-value: `0.0423`, `< 0.001`."""
    return "< 0.001" if value is not None and 0 <= value < _SCIENTIFIC else number(value)


def duration(seconds: float | None) -> str:
    """Return `42 ms`, `4.2 s`, `3 min 10 s`, `2 h 5 min` or `3 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return number(seconds)
    seconds = max(0.0, seconds)
    if seconds < _TENTHS:
        return _short_duration(seconds)
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def _short_duration(seconds: float) -> str:
    if seconds < _MILLIS:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    return f"{seconds:.1f} s"


def size(count: float | None) -> str:
    """Return bytes as `840 KiB`, `1.25 MiB` or `64 GiB`."""
    if count is None or math.isnan(count):
        return "-"
    unit = 0
    while abs(count) >= _KIB and unit < len(_SIZES) - 1:
        count, unit = count / _KIB, unit + 1
    return f"{number(count)} {_SIZES[unit]}"


def measure(name: str, value: float | None) -> str:
    """Return a measurement by its name's unit: `*_rate` and `pass_at_*` as percentages, `*_s` as time, `*_bytes` as size."""
    base = name.partition("/")[0]
    if base.endswith("_rate") or _PASS_AT.fullmatch(base) or base in _PARTS:
        return part(value)
    if base.endswith("_per_s"):
        return number(value)
    if base.endswith(("_s", "seconds")):
        return duration(value)
    return size(value) if base.endswith("_bytes") else number(value)


def label(name: str) -> str:
    """Return a measurement's name in words: `pass@1`, `time to first token`. What follows a slash (a sampling point) stays."""
    base, slash, point = name.partition("/")
    passed = _PASS_AT.fullmatch(base)
    if passed:
        words = f"pass@{passed[1]}"
    else:
        words = _LABELS.get(base) or base.removesuffix("_s").removesuffix("_rate").removesuffix("_bytes").replace("_", " ")
    return f"{words}{slash}{point}"


def headline(numbers: Mapping[str, float]) -> str:
    """Return at most six measurements in one line: the score with its interval first, of the rest those that people ask for."""
    known = [name for name in _HEADLINE if name in numbers]
    named = known or [name for name in numbers if "/" not in name]
    named = [name for name in named if name not in _SHOWN_ABOVE_ZERO or numbers[name] > _NOISE]  # none of it needs no word
    return ", ".join(_measured(name, numbers) for name in named[:_MOST])


def _measured(name: str, numbers: Mapping[str, float]) -> str:
    said = f"{label(name)} {measure(name, numbers[name])}"
    if name == "pass_at_1" and {"low", "high"} <= numbers.keys():
        return f"{said} (95 % interval {part(numbers['low'])} to {part(numbers['high'])})"
    return said


def ago(moment: datetime, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> str:
    """Return how long ago something was, in its largest unit: `3 min ago`."""
    return f"{' '.join(duration((now() - moment).total_seconds()).split()[:2])} ago"


def points(value: float | None) -> str:
    """Return a difference of parts in percentage points: `-3.2 points`."""
    return "-" if value is None else f"{100 * value + 0.0:+.1f} points"
