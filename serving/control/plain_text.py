"""Text that came from outside, made safe to show on a terminal and to store in any database."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
"""Terminal escape sequences (ECMA-48): colours and cursor moves, window titles, single letters."""
_KEPT = {"\n", "\t"}
_BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def plain(text: str) -> str:
    """Return `text` without escape sequences, control characters (NUL), lone surrogates and bidirectional overrides."""
    text = _ESCAPES.sub("", text)
    return "".join(char for char in text if char in _KEPT or (unicodedata.category(char) not in {"Cc", "Cs"} and char not in _BIDI))


def plain_json(value: Any) -> Any:
    """Return a JSON value with every text made plain and NaN and infinities as None (JSON has none of them)."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(str(key)): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return value
