"""What engines answer: read once, for usage and loops; only id and model change on the way to the client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from core.conversations import Usage
from core.degeneration import MIN_TOKENS, repeating_tail

_KEPT_CHARS = 8192
_NEEDLE = 24
_READ_CHOICES = 128
"""So many choices of one answer are read for loops; their texts are bounded each, so this bounds them all."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one answer, or one chunk of a streamed one, holds. `texts` has what each choice says, by its index."""

    document: dict[str, Any]
    texts: dict[int, str]
    begun: bool
    """Whether the model has said something in it, be it text, reasoning or a tool call."""
    finish_reasons: dict[int, str]
    usage: Usage | None
    error: bool
    only_usage: bool


def read_piece(raw: bytes) -> Piece | None:
    """Return the content of `raw` (JSON), or None when it is neither a completion nor an error."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    choices = document.get("choices")
    if not isinstance(choices, list):
        return Piece(document, {}, False, {}, None, error=True, only_usage=False) if document.get("error") else None
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    begun = False
    for choice in choices:
        if isinstance(choice, dict):
            index = _index(choice)
            said, something = _said(choice)
            begun = begun or something
            texts[index] = texts[index] + said if index in texts else said
            if isinstance(reason := choice.get("finish_reason"), str):
                reasons[index] = reason
    usage = read_usage(document.get("usage"))
    return Piece(document, texts, begun, reasons, usage, error=False, only_usage=usage is not None and not choices)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _said(choice: dict[str, Any]) -> tuple[str, bool]:
    """Return all that the model wrote, in the order in which it writes, because all of it is in the engine's count of tokens."""
    message = choice.get("delta") or choice.get("message")
    if not isinstance(message, dict):
        text = choice.get("text")
        return (text, bool(text)) if isinstance(text, str) else ("", False)
    content, calls = message.get("content"), message.get("tool_calls")
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(content, str) and not thought and not calls:  # nearly every chunk of every stream
        return content, bool(content)
    parts = (thought, content, *_arguments(calls))
    text = "".join(part for part in parts if isinstance(part, str))
    return text, bool(text or calls)


def _arguments(calls: object) -> list[object]:
    if not isinstance(calls, list):
        return []
    functions = (call.get("function") for call in calls if isinstance(call, dict))
    return [function.get("arguments") for function in functions if isinstance(function, dict)]


def read_usage(value: object) -> Usage | None:
    """Return the engine's count of tokens, or None when there is none."""
    if not isinstance(value, dict):
        return None
    tokens_in, tokens_out = value.get("prompt_tokens"), value.get("completion_tokens") or 0
    if not isinstance(tokens_in, int) or not isinstance(tokens_out, int) or min(tokens_in, tokens_out) < 0:
        return None
    return Usage(tokens_in, tokens_out)


def rename(raw: bytes, document: dict[str, Any], names: dict[str, str]) -> bytes:
    """Return `raw` with top-level string fields set to `names`.

    vLLM writes `id` and `model` before anything nested, so the value is cut out and replaced in place; for an engine with another
    order the whole document is serialized again.
    """
    for name, wanted in names.items():
        given = document.get(name)
        if given == wanted:
            continue
        old = b'"' + name.encode() + b'":' + json.dumps(given, ensure_ascii=False).encode("utf-8", "surrogatepass")
        start = raw.find(old)
        if start < 0 or raw.count(b"{", 0, start) != 1 or b"[" in raw[:start]:
            return json.dumps({**document, **names}).encode()
        raw = raw[:start] + f'"{name}":{json.dumps(wanted)}'.encode() + raw[start + len(old) :]
    return raw


class AnswerText:
    """The end of an answer's text, bounded, for as long as the request lives: never stored, never logged."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._kept = 0
        self._total = 0

    @property
    def total(self) -> int:
        """Characters so far."""
        return self._total

    def add(self, text: str) -> None:
        """Append what the model said next."""
        if text:
            self._pieces.append(text)
            self._kept += len(text)
            self._total += len(text)
            if self._kept > 2 * _KEPT_CHARS:
                self._pieces = ["".join(self._pieces)[-_KEPT_CHARS:]]
                self._kept = len(self._pieces[0])

    def looped(self, completion_tokens: int) -> bool:
        """Whether the answer ends in a loop, as `core.degeneration.repeating_tail` defines it.

        That takes a millisecond, so most answers are told apart before. A loop of period p is 4 p long at least and as long as 24
        tokens at least; so the last characters, three quarters of that, stand p characters earlier once more.
        """
        if completion_tokens < MIN_TOKENS or not self._total:
            return False
        text = "".join(self._pieces)[-_KEPT_CHARS:]
        needle = max(1, min(_NEEDLE, int(0.75 * MIN_TOKENS * self._total / completion_tokens)))
        if text.rfind(text[-needle:], 0, len(text) - 1) < 0:
            return False
        return repeating_tail(text, max(MIN_TOKENS, round(completion_tokens * len(text) / self._total))) is not None


class AnswerTexts:
    """The texts of all choices of one answer. The engine counts their tokens together: each has its part by its characters."""

    def __init__(self) -> None:
        self._choices: dict[int, AnswerText] = {}
        self._unread = 0

    def add(self, piece: Piece) -> None:
        """Append what each choice says next."""
        for index, said in piece.texts.items():
            text = self._choices.get(index)
            if text is None:
                if len(self._choices) >= _READ_CHOICES:
                    self._unread += len(said)
                    continue
                text = self._choices[index] = AnswerText()
            text.add(said)

    def looped(self, completion_tokens: int, only: int | None = None) -> bool:
        """Whether a choice ends in a loop: any of them, or the one that was sent where `only` says which."""
        read = [text for index, text in self._choices.items() if only is None or index == only]
        if len(self._choices) == 1 and not self._unread:
            return any(text.looped(completion_tokens) for text in read)
        total = self._unread + sum(text.total for text in self._choices.values())
        return any(text.looped(round(completion_tokens * text.total / total)) for text in read if text.total)
