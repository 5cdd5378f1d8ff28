"""Server-sent events (WHATWG HTML, section 9.2.6), decoded from bytes: a character may be split between two reads."""

from __future__ import annotations

import re

from core.errors import Fault

DONE = b"[DONE]"
MAX_EVENT = 4 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventDecoder:
    """Splits a byte stream into events and keeps their `data`. Fault when one event is larger than MAX_EVENT bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of every event that `received` completes, its lines joined by newlines."""
        text = self._rest + received
        if text.endswith(b"\r"):  # this may be the first half of a CRLF: wait for the next bytes
            text, held = text[:-1], b"\r"
        else:
            held = b""
        lines = text.split(b"\n") if b"\r" not in text else _LINE_END.split(text)
        self._rest = lines.pop() + held
        events: list[bytes] = []
        for line in lines:
            if line:
                self._line(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        if self._size + len(self._rest) > MAX_EVENT:
            raise Fault(f"the engine sent one event of more than {MAX_EVENT} bytes", hint="see its log")
        return events

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1


def encode_event(data: bytes) -> bytes:
    """Return `data` (one line) as an event."""
    return b"data: " + data + b"\n\n"
