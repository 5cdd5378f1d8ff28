"""There is a chat template, and it renders within limits, as transformers and vLLM render it, without code of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.ids import Digest
from core.reasons import Reason
from core.versions import Finding
from evals.checks.confined import Answer, End, Limits, confined
from evals.checks.model_files import ModelFiles
from evals.checks.reading import Unreadable
from evals.checks.report import NotCheckable, fail
from evals.checks.template_source import template_source
from evals.checks.tokens import tokens

_SCRIPT = Path(__file__).with_name("template_child.py")
_LIMITS = Limits(cpu_s=3, memory_bytes=512 * 1024**2)
_SAID = "What is the tide?"
_SYSTEM: dict[str, str] = {"role": "system", "content": "You answer briefly."}
_CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": _SAID}],
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": _SAID}],
]
_HINT = "Render the template with transformers' apply_chat_template, correct it, and submit again"


def chat_template_renders(files: ModelFiles) -> Iterator[Finding]:
    """Render two short conversations, with a limit on time and memory.

    A template that refuses a conversation without a system message is tried with one: it then has to render that.
    """
    try:
        source = template_source(files)
    except Unreadable as error:
        yield fail(Reason.BROKEN_TEMPLATE, f"{files.model}: {error}", "Write the template as UTF-8 text and submit again")
        return
    if not source.text:
        yield fail(Reason.NO_CHAT_TEMPLATE, f"{files.model}: {source.why}", source.hint)
        return
    question: dict[str, Any] = {"template": source.text, "special": dict(tokens(files).named)}
    plain = confined(_SCRIPT, {**question, "conversations": _CONVERSATIONS}, _LIMITS)
    if plain.end is End.BROKEN or (plain.end is End.DONE and not _heard(plain)):
        with_system = [[_SYSTEM, *messages] for messages in _CONVERSATIONS]
        second = confined(_SCRIPT, {**question, "conversations": with_system}, _LIMITS)
        if second.end is End.DONE and _heard(second):
            return
    yield from _judge(files, plain)


def template_digest(files: ModelFiles) -> Digest | None:
    """Return the sha256 of the template's text, None without one."""
    try:
        text = template_source(files).text
    except (Unreadable, NotCheckable):
        return None
    return Digest(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()) if text else None


def _judge(files: ModelFiles, answer: Answer) -> Iterator[Finding]:
    match answer.end:
        case End.TOO_LONG | End.TOO_MUCH_MEMORY:
            limits = f"{_LIMITS.cpu_s} s and {_LIMITS.memory_bytes >> 20} MiB"
            reason = f"{files.model}: rendering a conversation of three messages with the chat template exceeds {limits}"
            yield fail(Reason.ENDLESS_TEMPLATE, reason, "Correct the template's loops and submit again")
        case End.BROKEN | End.DIED:
            yield fail(Reason.BROKEN_TEMPLATE, f"{files.model}: the chat template cannot be rendered: {answer.why}", _HINT)
        case End.DONE if not _heard(answer):
            reason = f"{files.model}: the chat template leaves out the user's message"
            yield fail(Reason.BROKEN_TEMPLATE, reason, "Render {{ message['content'] }} for each message and submit again")
        case End.DONE:
            return


def _heard(answer: Answer) -> bool:
    return all(_SAID in text for text in answer.value)
