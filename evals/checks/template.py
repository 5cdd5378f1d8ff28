"""There is a chat template, and it renders within limits, without code of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.ids import Digest
from core.versions import Finding
from evals.checks.confined import Answer, End, Limits, confined
from evals.checks.evidence import Evidence, Unreadable
from evals.checks.names import TOKENIZER_CONFIG
from evals.checks.report import NotCheckable, fail

_SCRIPT = Path(__file__).with_name("template_child.py")
_LIMITS = Limits(cpu_s=3, wall_s=10.0, memory_bytes=512 * 1024**2)
_SAID = "What is the tide?"
_CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": _SAID}],
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": _SAID}],
]
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def chat_template_renders(evidence: Evidence) -> Iterator[Finding]:
    """Render two short conversations, with a limit on time and memory."""
    try:
        template = evidence.template
    except Unreadable as error:
        yield fail("broken_template", f"{evidence.model}: {error}", "write the template as UTF-8 text and submit again")
        return
    if not template:
        yield fail(
            "no_chat_template",
            f"{evidence.model}: there is no chat template, neither chat_template.jinja nor in tokenizer_config.json",
            "add the template that the model was trained with and submit again (a base model needs one, too)",
        )
        return
    special = _special_tokens(evidence.json(TOKENIZER_CONFIG) or {})
    yield from _judge(evidence, confined(_SCRIPT, {"template": template, "conversations": _CONVERSATIONS, "special": special}, _LIMITS))


def template_digest(evidence: Evidence) -> Digest | None:
    """Return the sha256 of the template's text, None without one."""
    try:
        template = evidence.template
    except (Unreadable, NotCheckable):
        return None
    return Digest(hashlib.sha256(template.encode()).hexdigest()) if template else None


def _judge(evidence: Evidence, answer: Answer) -> Iterator[Finding]:
    match answer.end:
        case End.TOO_LONG | End.TOO_MUCH_MEMORY:
            limits = f"{_LIMITS.cpu_s} s and {_LIMITS.memory_bytes >> 20} MiB"
            reason = f"{evidence.model}: the chat template does not end within {limits} on a conversation of three lines"
            yield fail("endless_template", reason, "mend its loops and submit again")
        case End.BROKEN | End.DIED:
            reason = f"{evidence.model}: the chat template cannot be rendered: {answer.why}"
            yield fail("broken_template", reason, "mend the template (transformers' apply_chat_template shows the fault) and submit again")
        case End.DONE if not all(_SAID in text for text in answer.value):
            reason = f"{evidence.model}: the chat template leaves out what the user says"
            yield fail("broken_template", reason, "render {{ message['content'] }} for each message and submit again")
        case End.DONE:
            return


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _SPECIAL:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found
