"""Count the tokens of a SentencePiece model (`tokenizer.model`), a protocol buffer, with nothing taken on trust.

The format (google/sentencepiece, sentencepiece_model.proto): ModelProto { repeated SentencePiece pieces = 1; ... }.
"""

from __future__ import annotations

_PIECES = 1
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_FIELDS = 1_000_000
"""More than any vocabulary has."""


def pieces(raw: bytes) -> int | None:
    """Return how many tokens the model has; None for other bytes (a tiktoken file), or too many fields."""
    at, count, fields = 0, 0, 0
    while at < len(raw):
        fields += 1
        if fields > _MAX_FIELDS:
            return None
        key = _varint(raw, at)
        if key is None:
            return None
        tag, at = key
        step = _skip(raw, at, tag & 7)
        if step is None or tag >> 3 == 0:
            return None
        count += tag >> 3 == _PIECES and tag & 7 == _LENGTH
        at = step
    return count or None


def _skip(raw: bytes, at: int, wire: int) -> int | None:
    """Return where the field that begins at `at` ends; None when it is broken or reaches past the end."""
    end: int | None = None
    if wire == _VARINT:
        value = _varint(raw, at)
        end = value[1] if value else None
    elif wire == _LENGTH:
        length = _varint(raw, at)
        end = length[1] + length[0] if length else None
    elif wire in {_FIXED64, _FIXED32}:
        end = at + (8 if wire == _FIXED64 else 4)
    return end if end is not None and end <= len(raw) else None


def _varint(raw: bytes, at: int) -> tuple[int, int] | None:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(raw):
            return None
        byte = raw[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a varint
            return value, at + index + 1
    return None
