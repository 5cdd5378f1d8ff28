"""Natural and bad texts, with what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core.degeneration import TextJudgement, judge_text

LOW_STABLE_LOGPROB = -3.0
"""Mean log-probability (nats a token) of an answer under the sound model below which it counts as improbable: sound answers of SmolLM2
have -0.3 to -2, answers of most damaged copies -3.7 to -14."""
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with its label: `bad` is `loop`, `nonsense`, `fluent`, or empty for a natural text. Log-probabilities in nats a token."""

    kind: str
    held_out: bool
    text: str
    completion_tokens: int
    finish_reason: str
    bad: str = ""
    logprob: float | None = None
    entropy: float | None = None
    stable_logprob: float | None = None

    def judge(self) -> TextJudgement:
        """Judge the text."""
        return judge_text(self.text, self.completion_tokens, self.finish_reason)


@cache
def natural() -> tuple[Labelled, ...]:
    """Return the natural texts."""
    return _read("natural")


@cache
def bad() -> tuple[Labelled, ...]:
    """Return the bad texts."""
    return _read("bad")


def _read(name: str) -> tuple[Labelled, ...]:
    lines = (_HERE / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in lines if line]
    return tuple(Labelled(**row) for row in rows)
