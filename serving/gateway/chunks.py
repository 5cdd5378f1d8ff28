"""Answers of engines, whole or in chunks: parsed for usage, text and errors. The gateway replaces only `id` and `model` in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.conversations import Usage
from core.degeneration import TextJudgement, judge_text

_KEPT_CHARS = 8192
_CHECKED_CHOICES = 16
"""The number of choices of one answer whose texts are kept. Each text is bounded, so this bounds the memory of an answer."""
_JUDGED_CHOICES = 4
"""The number of choices that are judged, which takes some milliseconds each on the event loop."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The content of one chunk of a stream, or of one whole answer. `texts` maps the index of each choice to its text."""

    document: dict[str, Any]
    texts: dict[int, str]
    has_output: bool
    """Whether it contains output of the model: text, reasoning or a tool call."""
    finish_reasons: dict[int, str]
    usage: Usage | None
    error: bool
    only_usage: bool


def parse_chunk(raw: bytes) -> Chunk | None:
    """Return the content of `raw` (JSON), or None when it is neither a completion nor an error."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    choices = document.get("choices")
    if not isinstance(choices, list):
        return Chunk(document, {}, False, {}, None, error=True, only_usage=False) if document.get("error") else None
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    has_output = False
    for choice in choices:
        if isinstance(choice, dict):
            index = _index(choice)
            text, found = _output(choice)
            has_output = has_output or found
            texts[index] = texts[index] + text if index in texts else text
            if isinstance(reason := choice.get("finish_reason"), str):
                reasons[index] = reason
    usage = parse_usage(document.get("usage"))
    return Chunk(document, texts, has_output, reasons, usage, error=False, only_usage=usage is not None and not choices)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _output(choice: dict[str, Any]) -> tuple[str, bool]:
    """Return the model's output in the order of generation (the engine counts all of it), and whether there is any."""
    message = choice.get("delta") or choice.get("message")
    if not isinstance(message, dict):
        text = choice.get("text")
        return (text, bool(text)) if isinstance(text, str) else ("", False)
    content, calls = message.get("content"), message.get("tool_calls")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(content, str) and not reasoning and not calls:  # most chunks
        return content, bool(content)
    parts = (reasoning, content, *_arguments(calls))
    text = "".join(part for part in parts if isinstance(part, str))
    return text, bool(text or calls)


def _arguments(calls: object) -> list[object]:
    if not isinstance(calls, list):
        return []
    functions = (call.get("function") for call in calls if isinstance(call, dict))
    return [function.get("arguments") for function in functions if isinstance(function, dict)]


def parse_usage(value: object) -> Usage | None:
    """Return the engine's count of tokens, or None when `value` is not a valid one."""
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
    for name, value in names.items():
        given = document.get(name)
        if given == value:
            continue
        old = b'"' + name.encode() + b'":' + json.dumps(given, ensure_ascii=False).encode("utf-8", "surrogatepass")
        start = raw.find(old)
        if start < 0 or raw.count(b"{", 0, start) != 1 or b"[" in raw[:start]:
            return json.dumps({**document, **names}).encode()
        raw = raw[:start] + f'"{name}":{json.dumps(value)}'.encode() + raw[start + len(old) :]
    return raw


class OutputText:
    """The end of one choice's text, of bounded length. It exists only during the request and is never stored or logged."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._kept = 0
        self._total = 0

    @property
    def total(self) -> int:
        """The number of characters added."""
        return self._total

    def add(self, text: str) -> None:
        """Append the next part of the text."""
        if text:
            self._parts.append(text)
            self._kept += len(text)
            self._total += len(text)
            if self._kept > 2 * _KEPT_CHARS:
                self._parts = ["".join(self._parts)[-_KEPT_CHARS:]]
                self._kept = len(self._parts[0])

    def judge(self, completion_tokens: int, finish_reason: str | None) -> TextJudgement:
        """Return whether the text loops or is nonsense (`core.degeneration.judge_text`); `completion_tokens` are its own."""
        text = "".join(self._parts)[-_KEPT_CHARS:]
        kept = completion_tokens if len(text) == self._total else round(completion_tokens * len(text) / self._total)
        return judge_text(text, kept, finish_reason)


class OutputTexts:
    """The texts of all choices of one answer. The engine counts their tokens together; each choice's part is estimated from its length."""

    def __init__(self) -> None:
        self._choices: dict[int, OutputText] = {}
        self._unchecked = 0

    def add(self, chunk: Chunk) -> None:
        """Append the texts of a chunk."""
        for index, added in chunk.texts.items():
            text = self._choices.get(index)
            if text is None:
                if len(self._choices) >= _CHECKED_CHOICES:
                    self._unchecked += len(added)
                    continue
                text = self._choices[index] = OutputText()
            text.add(added)

    def judge(self, completion_tokens: int, finish_reasons: Mapping[int, str], only: int | None = None) -> tuple[bool, bool]:
        """Return whether a choice loops, and whether one is nonsense: of the choice with the index `only`, or of the first four."""
        total = self._unchecked + sum(text.total for text in self._choices.values())
        chosen = [(index, text) for index, text in self._choices.items() if text.total and (only is None or index == only)]
        judged = [
            text.judge(round(completion_tokens * text.total / total), finish_reasons.get(index)) for index, text in chosen[:_JUDGED_CHOICES]
        ]
        return any(one.looped for one in judged), any(one.nonsense.found for one in judged)
