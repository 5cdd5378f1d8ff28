"""Numbers on the command line: finite and within their limits, or a message that states both."""

from __future__ import annotations

import math

import click


class Number(click.ParamType[float]):
    """A finite number between `low` and `high`; `above` and `below` exclude the limit itself. Minus zero is zero."""

    name = "number"

    def __init__(self, low: float, high: float, *, above: bool = False, below: bool = False) -> None:
        self._low, self._high, self._above, self._below = low, high, above, below

    @property
    def limits(self) -> str:
        """The limits in words."""
        low = f"greater than {self._low:g}" if self._above else f"at least {self._low:g}"
        return f"{low} and {'less than' if self._below else 'at most'} {self._high:g}"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(str(value))
        except ValueError:
            self.fail(f"must be a number, got {str(value)[:40]!r}", param, ctx)
        inside = math.isfinite(number) and self._low <= number <= self._high
        if not inside or (self._above and number == self._low) or (self._below and number == self._high):
            self.fail(f"must be {self.limits}, got {str(value)[:40]}", param, ctx)
        return number + 0.0  # -0.0 + 0.0 is 0.0


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas: `0.2,0.8`."""

    name = "numbers"

    def __init__(self, each: Number) -> None:
        self._each = each

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers, at least one."""
        if isinstance(value, tuple):
            return value
        pieces = [piece.strip() for piece in str(value).split(",")]
        return tuple(self._each.convert(piece, param, ctx) for piece in pieces)


TEMPERATURE = Number(0, 2)
PENALTY = Number(-2, 2)
TOP_P = Number(0, 1, above=True)
PART = Number(0, 1)
INNER_PART = Number(0, 1, above=True, below=True)
POINTS = Number(0, 100, above=True)
"""The same limits as the control API's (serving/control/schemas/benchmarks.py)."""
