"""Live conversations as an application would hold them: OpenAI's own client, two turns each, every answer's version noted."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any

from openai import APIError, OpenAI

from evals.suites.files import openings

_AT_ONCE = 6
_MAX_TOKENS = 96
_FAILED = "failed"
"""Stands for the version of an answer that failed."""
_READS_S = 5.0
"""Users read an answer before they go on: without pauses they would starve the trials of a small machine."""
_SKIMS_S = 0.3
"""The pause of users in a hurry."""


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """What the users saw. A conversation is the stable version's when its first answer was."""

    conversations: int
    answers: int
    stable_conversations: int
    stable_failed: int
    stable_changed_model: int
    candidate_conversations: int
    candidate_failed: int
    candidate_moved: int

    def __str__(self) -> str:
        """Sum it up in one line."""
        return (
            f"{self.conversations} conversations; stable version {self.stable_conversations}, of which {self.stable_failed} failed and "
            f"{self.stable_changed_model} changed their model; candidate {self.candidate_conversations}, of which "
            f"{self.candidate_failed} failed and {self.candidate_moved} moved to the stable version"
        )


class Traffic:
    """Conversations of some users at once, one after the other, until it is left. `stable` is the id of the version that served before."""

    def __init__(self, openai: OpenAI, endpoint: str, stable: str) -> None:
        self._openai = openai
        self._endpoint = endpoint
        self._stable = stable
        self._over = threading.Event()
        self._hurry = threading.Event()
        self._numbers = count(1)
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="user")

    def __enter__(self) -> Traffic:
        """Let the users begin."""
        self._users = [self._pool.submit(self._user) for _ in range(_AT_ONCE)]
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        """Let every conversation that has begun come to its end."""
        self.drain()

    def hurry(self) -> None:
        """Let users begin more conversations from now on, so that a small share of them meets the candidate within seconds."""
        self._hurry.set()

    def drain(self) -> None:
        """Begin no more conversations and wait for those under way."""
        self._over.set()
        self._hurry.set()
        self._pool.shutdown(wait=True)
        for user in self._users:
            user.result()

    def report(self) -> TrafficReport:
        """Return the counts so far."""
        with self._lock:
            return TrafficReport(**{name: self._seen[name] for name in TrafficReport.__dataclass_fields__})

    def _user(self) -> None:
        chosen = openings()
        while not self._over.is_set():
            number = next(self._numbers)
            self._note(self._converse(f"visitor-{number}", chosen[number % len(chosen)].turns))

    def _converse(self, user: str, turns: tuple[str, ...]) -> list[str]:
        """Hold one conversation and return the version of each answer, `failed` for one that did not come."""
        versions: list[str] = []
        messages: list[Any] = []
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            try:
                raw = self._openai.chat.completions.with_raw_response.create(
                    model=self._endpoint, messages=messages, max_tokens=_MAX_TOKENS, user=user
                )
            except APIError:
                versions.append(_FAILED)
                break
            versions.append(raw.headers.get("X-Seatrial-Version", ""))
            messages.append({"role": "assistant", "content": raw.parse().choices[0].message.content or ""})
            self._pause()
        return versions

    def _pause(self) -> None:
        """Read the answer. A user who is told to hurry meanwhile goes on at once."""
        if self._hurry.is_set():
            self._over.wait(_SKIMS_S)
        else:
            self._hurry.wait(_READS_S)

    def _note(self, versions: list[str]) -> None:
        first = versions[0]
        of_stable = first == _FAILED or self._stable.startswith(first)
        with self._lock:
            self._seen["conversations"] += 1
            self._seen["answers"] += len(versions)
            self._seen["stable_conversations" if of_stable else "candidate_conversations"] += 1
            self._seen["stable_failed" if of_stable else "candidate_failed"] += _FAILED in versions
            changed = any(version not in {first, _FAILED} for version in versions)
            self._seen["stable_changed_model" if of_stable else "candidate_moved"] += changed
