"""The tokenizer gives back the text that it was given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.versions import Finding
from evals.checks.confined import End, Limits, confined
from evals.checks.evidence import Evidence
from evals.checks.names import TOKENIZER
from evals.checks.report import fail

_SCRIPT = Path(__file__).with_name("tokenizer_child.py")
_LIMITS = Limits(cpu_s=30, wall_s=60.0, memory_bytes=4 * 1024**3)
_TEXTS = ("Hello, world! 123", "def add(a, b):\n    return a + b\n")


def tokenizer_round_trip(evidence: Evidence) -> Iterator[Finding]:
    """Encode and decode some text with tokenizer.json; spacing may differ (SentencePiece adds and drops it), characters may not."""
    if TOKENIZER not in evidence.paths:
        hint = "save the fast tokenizer beside the weights (AutoTokenizer.from_pretrained(...).save_pretrained(...)) and submit again"
        yield fail("no_tokenizer", f"{evidence.model}: there is no tokenizer.json", hint)
        return
    why = _fault(evidence)
    if why:
        yield fail(
            "tokenizer_broken",
            f"{evidence.model}: tokenizer.json {why}",
            "save the tokenizer that the model was trained with and submit again",
        )


def _fault(evidence: Evidence) -> str:
    if TOKENIZER in evidence.links:
        return "is a link"
    answer = confined(_SCRIPT, {"path": str((evidence.folder / TOKENIZER).absolute()), "texts": _TEXTS}, _LIMITS)
    if answer.end is not End.DONE:
        return f"cannot be loaded: {answer.why or answer.end}"
    for text, (count, decoded) in zip(_TEXTS, answer.value, strict=True):
        if not count or "".join(decoded.split()) != "".join(text.split()):
            return f"turns {text!r} into {count} tokens that read {decoded[:60]!r}"
    return ""
