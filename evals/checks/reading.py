"""Decode files of strangers as transformers and vLLM do, and recognise files that are something else than their name states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.reasons import Reason

HEAD_BYTES = 512
"""How much of a file's beginning `stand_in` needs."""

_POINTERS = {b"version https://git-lfs.github.com/spec/": "a Git LFS pointer", b"# xet version": "a Xet pointer"}
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_FORMATS = {b"GGUF": "a GGUF file", b"PK\x03\x04": "a ZIP archive (torch.save writes one)", b"\x89HDF": "an HDF5 file"}
_SHOWN_TEXT = 60
_SHOWN_NUMBERS = 16
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
MAX_VALUES = 500_000
"""Most values (strings, numbers, lists, objects) of a JSON file. Bounds the memory that decoding takes to about 100 MB."""


class Unreadable(ValueError):
    """A file is there but is not what its name states; the text states why."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """What a file holds instead of its content. `reason` is that of the finding."""

    reason: Reason
    what: str


def stand_in(head: bytes) -> StandIn | None:
    """Return what stands in for a file whose first `HEAD_BYTES` are `head`: a pointer of a large-file store, or a web page; else None."""
    for begin, what in _POINTERS.items():
        if head.startswith(begin):
            return StandIn(Reason.POINTER_FILE, what)
    if head.removeprefix(_UTF8_MARK).lstrip().lower().startswith(_PAGES):
        return StandIn(Reason.WEB_PAGE, "a web page")
    return None


def other_format(head: bytes) -> str:
    """Return what a file that should be safetensors is by its first bytes: another format, or text; empty when they do not show it."""
    known = next((what for begin, what in _FORMATS.items() if head.startswith(begin)), "")
    if known:
        return f"it is {known}"
    if _is_pickle(head):
        return "it is a pickle"
    shown = head[:_SHOWN_TEXT]
    if len(shown) > 0 and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in shown):  # noqa: PLR2004 - printable ASCII
        return f"it is text: {shown.decode('ascii')!r}"
    return ""


def _is_pickle(head: bytes) -> bool:
    """Whether bytes begin as a pickle of protocol 2 to 5. The length of a safetensors header may begin with the same bytes, then zeros."""
    return head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"} and head[4:8] != bytes(4)


def plain_text(name: str, raw: bytes) -> str:
    """Decode UTF-8, which is what transformers reads. A byte-order mark stays part of the text. Raises Unreadable."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        other = next((encoding for mark, encoding in _OTHER_MARKS.items() if raw.startswith(mark)), "")
        found = f"it begins with the byte-order mark of {other}" if other else f"byte {error.start} is {raw[error.start]:#04x}"
        raise Unreadable(f"{name} is not UTF-8: {found}") from error


def json_object(name: str, raw: bytes, most: int = MAX_VALUES) -> Mapping[str, Any]:
    """Decode a JSON object as `json.load(open(name, encoding="utf-8"))` does: no byte-order mark; NaN and repeated keys pass.

    Raises Unreadable. Text of more than `most` values would take a multiple of its size in memory, and is refused before it is decoded.
    """
    text = plain_text(name, raw)
    if not text.strip():
        raise Unreadable(f"{name} is empty ({len(raw)} bytes)")
    if raw.startswith(_UTF8_MARK):
        raise Unreadable(f"{name} begins with a byte-order mark (bytes EF BB BF), which transformers refuses")
    refuse_many(name, raw, most)
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise Unreadable(f"{name} is nested too deep") from error
    except ValueError as error:
        raise Unreadable(f"{name} is not JSON: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        raise Unreadable(f"{name} must be a JSON object, got {_kind(document)}")
    return document


def refuse_many(name: str, raw: bytes, most: int) -> None:
    """Raise Unreadable for JSON with more than `most` values. Each value but the first follows one of the characters that are counted."""
    values = sum(raw.count(mark) for mark in (b"{", b"[", b",", b":"))
    if values > most:
        raise Unreadable(f"{name} may have at most {most} values, has about {values}")


def shown(value: Any) -> str:
    """Return a decoded JSON value for a message: short scalars as they are, lists of numbers in part, everything else by its kind."""
    if isinstance(value, str):
        return repr(value[:_SHOWN_TEXT])
    if isinstance(value, list) and len(value) <= _SHOWN_NUMBERS and all(isinstance(item, int | float) for item in value):
        return f"[{', '.join(_number(item) for item in value)}]"
    return _number(value) if isinstance(value, int | float) and not isinstance(value, bool) else _kind(value)


def _number(value: float) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case str():
            return "a string"
        case _:
            return "a number"
