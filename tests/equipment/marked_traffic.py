"""Users who never stop asking, and write down every single request: whether it came back whole, how long it took, and which model spoke."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, Self

import httpx

_LIMIT_S = 60.0
_READS_S = 0.1
_TURNS = ("Hello", "What can you do?", "Thank you.")


@dataclass(frozen=True, slots=True)
class Mark:
    """One request. `problem` is empty for an answer that came whole."""

    conversation: str
    turn: int
    streamed: bool
    began: float
    seconds: float
    version: str = ""
    moved: bool = False
    problem: str = ""


@dataclass
class MarkedTraffic:
    """Conversations of three turns, every second one streamed, by `users` at once on connections that are kept; asks until it is left."""

    gateway: str
    key: str
    endpoint: str
    users: int = 4
    marks: list[Mark] = field(default_factory=list)
    _prefix: str = field(default_factory=lambda: f"talk-{secrets.token_hex(3)}")
    _over: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._user, name=f"user-{number}", daemon=True) for number in range(self.users)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let every conversation come to its end: a request that hangs is found here."""
        self._over.set()
        for thread in self._threads:
            thread.join(_LIMIT_S + 30)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    @property
    def failed(self) -> list[Mark]:
        return [mark for mark in self.marks if mark.problem]

    @property
    def changed(self) -> list[tuple[Mark, Mark]]:
        """Neighbours in one conversation that were answered by two models, and not told so."""
        return [pair for pair in self._pairs() if pair[0].version != pair[1].version and not pair[1].moved]

    @property
    def moved(self) -> list[Mark]:
        """Answers that were marked as moved: their model had been withdrawn."""
        return [mark for mark in self.marks if mark.moved]

    @property
    def withdrawn(self) -> set[str]:
        """The versions whose conversations had to move."""
        return {before.version for before, after in self._pairs() if before.version != after.version and after.moved}

    @property
    def slowest_s(self) -> float:
        return max((mark.seconds for mark in self.marks), default=0.0)

    @property
    def longest_silence_s(self) -> float:
        """The longest time in which no request began: the traffic was continuous when it is short."""
        begun = sorted(mark.began for mark in self.marks)
        return max((later - earlier for earlier, later in pairwise(begun)), default=0.0)

    def by(self, version: str | None) -> int:
        """How many answers a version gave."""
        return sum(bool(mark.version) and (version or "").startswith(mark.version) for mark in self.marks)

    def told(self) -> str:
        return (
            f"{len(self.marks)} requests, {len(self.failed)} failed, {len(self.changed)} changed model, {len(self.moved)} moved, "
            f"slowest {self.slowest_s:.1f} s, longest silence {self.longest_silence_s:.1f} s"
        )

    def expect_nobody_noticed(self) -> None:
        """Assert that every request was answered whole, by its conversation's model, in time, and that there was no pause between them."""
        assert self.moved == []
        self.expect_only_moved_from(None)

    def expect_only_moved_from(self, withdrawn: str | None) -> None:
        """Assert the same, but for the conversations of one version: it was withdrawn, and they were told so."""
        assert self.failed == []
        assert self.changed == []
        assert all((withdrawn or "").startswith(version) for version in self.withdrawn)
        assert self.slowest_s < 30
        assert self.longest_silence_s < 10

    def _pairs(self) -> Iterator[tuple[Mark, Mark]]:
        last: dict[str, Mark] = {}
        for mark in sorted(self.marks, key=lambda mark: (mark.conversation, mark.turn)):
            if mark.conversation in last and not mark.problem:
                yield last[mark.conversation], mark
            if not mark.problem:
                last[mark.conversation] = mark

    def _user(self) -> None:
        with httpx.Client(base_url=self.gateway, headers={"Authorization": f"Bearer {self.key}"}, timeout=_LIMIT_S) as http:
            while not self._over.is_set():
                self._converse(http, next(self._numbers))

    def _converse(self, http: httpx.Client, number: int) -> None:
        conversation = f"{self._prefix}-{number}"  # never one of an earlier day's, whose model may be withdrawn by now
        messages: list[dict[str, str]] = []
        for turn, said in enumerate(_TURNS):
            messages.append({"role": "user", "content": said})
            began = time.time()
            clock = time.monotonic()
            streamed = number % 2 == 0
            try:
                answer = _ask(http, {"model": self.endpoint, "messages": messages, "max_tokens": 48}, conversation, streamed=streamed)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                answer = {"problem": f"{type(error).__name__}: {error}"}
            messages.append({"role": "assistant", "content": answer.pop("text", "")})
            self.marks.append(Mark(conversation, turn, streamed, began, time.monotonic() - clock, **answer))
            self._over.wait(_READS_S)


def _ask(http: httpx.Client, body: dict[str, Any], conversation: str, *, streamed: bool) -> dict[str, Any]:
    with http.stream(
        "POST", "/v1/chat/completions", json={**body, "stream": streamed}, headers={"X-Seatrial-Conversation": conversation}
    ) as got:
        text = got.read().decode()
        told = {"version": got.headers.get("X-Seatrial-Version", ""), "moved": got.headers.get("X-Seatrial-Moved") == "1"}
        if got.status_code != httpx.codes.OK:
            return {**told, "problem": f"{got.status_code}: {text[:300]}"}
        if not streamed:
            choice = json.loads(text)["choices"][0]
            return {**told, "text": choice["message"]["content"] or "", "problem": "" if choice["finish_reason"] else "no end"}
    return {**told, **_streamed(text)}


def _streamed(text: str) -> dict[str, Any]:
    """Put a stream together; one without an end, or with an error in it, is no answer."""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return {"problem": f"the stream was cut: {text[-200:]!r}"}
    pieces = [json.loads(event) for event in events[:-1]]
    broken = next((piece["error"] for piece in pieces if "error" in piece), None)
    if broken is not None:
        return {"problem": f"the stream told an error: {broken}"}
    choices = [piece["choices"][0] for piece in pieces if piece["choices"]]
    ended = any(choice.get("finish_reason") for choice in choices)
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    return {"text": said, "problem": "" if ended else "the stream had no end"}
