"""Kubernetes' quantities: `500m`, `2`, `8Gi`, `1e3`."""

from __future__ import annotations

import re
from decimal import Decimal

_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))((?:[eE][+-]?\d+)|[KMGTPE]i|[numkMGTPE]?)")
_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{letter: Decimal(1000) ** (power + 1) for power, letter in enumerate("kMGTPE")},
    **{f"{letter}i": Decimal(1024) ** (power + 1) for power, letter in enumerate("KMGTPE")},
}


def quantity(text: str | float | None) -> Decimal | None:
    """Return the number that a quantity stands for, None for what is none."""
    found = _FORM.fullmatch(str(text))
    if found is None:
        return None
    number, suffix = found.groups()
    return Decimal(number + suffix) if suffix[:1] in {"e", "E"} and suffix[1:] not in {"", "i"} else Decimal(number) * _SUFFIX[suffix]


def amount(text: str | float | None) -> float:
    """Return the number that a quantity stands for; what is missing or none counts nothing."""
    return float(quantity(text) or 0)
