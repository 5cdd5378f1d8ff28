"""The demo's real model: SmolLM2 from the package index, through the same chain as the tiny models, and then asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from openai import OpenAI

from infra.local.demo_parts import Background, publish
from infra.models.smollm2 import NotAvailable, provide

NAME = "smollm2"
ENDPOINT = "assistant"
QUESTIONS = ("What is the capital of France?", "In one sentence, why is the sky blue?")
_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Built:
    """The model's folder and the seconds that it took to have it; without a folder, why it cannot be had."""

    folder: Path | None
    seconds: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One answer at temperature 0, with its length in tokens and its rate, waiting included."""

    question: str
    answer: str
    completion_tokens: int
    seconds: float
    tokens_per_s: float


def building() -> Background[Built]:
    """Build SmolLM2, or take it from the cache, while the stack starts. Fault where the build is broken."""
    return Background(_built)


def offer(built: Built, models: Path) -> str:
    """Put it on the demo's hub and return its id."""
    if built.folder is not None:
        publish(models, NAME, built.folder)
    return f"demo/{NAME}"


def questions(openai: OpenAI, clock: Callable[[], float] = monotonic) -> tuple[Said, ...]:
    """Ask it each question through the gateway."""
    return tuple(_asked(openai, question, clock) for question in QUESTIONS)


def _built() -> Built:
    begun = monotonic()
    try:
        folder = provide()
    except NotAvailable as error:
        return Built(None, round(monotonic() - begun, 1), str(error))
    return Built(folder, round(monotonic() - begun, 1))


def _asked(openai: OpenAI, question: str, clock: Callable[[], float]) -> Said:
    begun = clock()
    answer = openai.chat.completions.create(
        model=ENDPOINT, messages=[{"role": "user", "content": question}], max_tokens=_MAX_TOKENS, temperature=0
    )
    seconds = clock() - begun
    tokens = answer.usage.completion_tokens if answer.usage else 0
    text = (answer.choices[0].message.content or "").strip()
    return Said(question, text, tokens, round(seconds, 2), round(tokens / seconds, 1) if seconds > 0 else 0.0)
