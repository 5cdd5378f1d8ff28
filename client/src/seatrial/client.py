"""The SDK: the same verbs as the command line, typed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

from seatrial import types
from seatrial.benchmarks import Benchmarks
from seatrial.config import find_connection, is_local
from seatrial.patience import Asking, watched
from seatrial.transport import Transport
from seatrial.types import expected, read, read_all

_LATE = timedelta(seconds=60)
"""Votes reach the database in batches, so an older one may show after a younger: following looks back so far."""
_PAGE = 1000
_PATIENCE_S = 60.0


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


class Client:
    """A connection to one platform. Errors are `SeatrialError`s.

    `url` and `key` default to SEATRIAL_URL and SEATRIAL_KEY, then to what `seatrial up` left in its home on this machine; `home` names
    that folder (default: SEATRIAL_HOME, then `~/.local/share/seatrial`) and comes before the environment. `pause` waits between two looks
    while watching or following, `monotonic` is the clock (seconds) that limits the wait for a platform that does not answer.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        home: str | Path | None = None,
        pause: Callable[[float], None] = _pause,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = Transport(find_connection(url, key, home=home))
        self.submissions = Submissions(self._transport, pause, monotonic)
        self.models = Models(self._transport)
        self.endpoints = Endpoints(self._transport)
        self.rollouts = Rollouts(self._transport)
        self.benchmarks = Benchmarks(self._transport, pause, monotonic)
        self.feedback = FeedbackGroup(self._transport, pause, monotonic)
        self.keys = Keys(self._transport)

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    @property
    def gateway_url(self) -> str:
        """Where applications send prompts (OpenAI's API lies below `/v1`)."""
        return self._transport.gateway()

    def whoami(self) -> types.Caller:
        """Return who the key is."""
        return read(types.Caller, self._transport.call("GET", "/v1/whoami"))

    def problems(self) -> types.PlatformHealth:
        """Return what is wrong with the platform now (operators only): kind, cause and the next command of each problem."""
        return read(types.PlatformHealth, self._transport.call("GET", "/v1/problems"))

    def is_local(self, folder: Path) -> bool:
        """Return whether this client calls the platform that `seatrial up` started on `folder`."""
        return is_local(self._transport.connection, folder)

    def leaderboard(self, endpoint: str | None = None) -> tuple[types.LeaderboardRow, ...]:
        """Return the rows of the leaderboard, best first."""
        return read_all(types.LeaderboardRow, self._transport.call("GET", "/v1/leaderboard", endpoint=endpoint))

    @overload
    def chat(
        self, endpoint: str, messages: Sequence[Mapping[str, str]], *, stream: Literal[True], **options: Any
    ) -> Iterator[types.Chunk]: ...
    @overload
    def chat(
        self, endpoint: str, messages: Sequence[Mapping[str, str]], *, stream: Literal[False] = False, **options: Any
    ) -> types.Chunk: ...
    def chat(
        self, endpoint: str, messages: Sequence[Mapping[str, str]], *, stream: bool = False, **options: Any
    ) -> types.Chunk | Iterator[types.Chunk]:
        """Ask an endpoint through the gateway, with OpenAI's options (`max_tokens`, `temperature`, ...)."""
        body = {"model": endpoint, "messages": list(messages), "stream": stream, **options}
        if stream:
            return self._chunks(body)
        answer = self._transport.ask("/v1/chat/completions", body)
        with expected("a chat completion"):
            choice = answer["choices"][0]
            return types.Chunk(choice["message"].get("content") or "", answer["id"], choice.get("finish_reason"))

    def _chunks(self, body: Mapping[str, Any]) -> Iterator[types.Chunk]:
        for event in self._transport.stream("/v1/chat/completions", body):
            with expected("a chunk of a chat completion"):
                chunks = [
                    types.Chunk(choice["delta"].get("content") or "", event["id"], choice.get("finish_reason"))
                    for choice in event.get("choices", ())
                ]
            yield from chunks


class Submissions:
    """Submissions: submit, look, watch, cancel, logs."""

    def __init__(self, transport: Transport, pause: Callable[[float], None], monotonic: Callable[[], float]) -> None:
        self._transport = transport
        self._pause = pause
        self._monotonic = monotonic

    def submit(self, model: str | Path, endpoint: str, *, note: str = "", idempotency_key: str | None = None) -> types.Submission:
        """Bring `ORG/MODEL[@REV]` or a folder to an endpoint; returns at once.

        Without an `idempotency_key` each call is a submission of its own (one is made up, so that a retry on the wire counts once).
        """
        body = {"model": str(model), "endpoint": endpoint, "note": note, "idempotency_key": idempotency_key or uuid.uuid4().hex}
        return read(types.Submission, self._transport.call("POST", "/v1/submissions", body=body))

    def get(self, submission: str) -> types.Submission:
        """Return one with its steps."""
        return read(types.Submission, self._transport.call("GET", f"/v1/submissions/{submission}"))

    def list(
        self, *, state: str | None = None, endpoint: str | None = None, mine: bool = False, limit: int = 100
    ) -> tuple[types.Submission, ...]:
        """Return submissions, newest first, without their steps."""
        found = self._transport.call("GET", "/v1/submissions", state=state, endpoint=endpoint, mine=mine, limit=limit)
        return read_all(types.Submission, found)

    def watch(self, submission: str, *, interval_s: float = 0.5, patience_s: float = _PATIENCE_S) -> Iterator[types.Submission]:
        """Yield the submission each `interval_s` until it has ended; the last one is its end.

        A platform that does not answer is waited for, `patience_s` at most, and so is a flow run that cannot be started; then Unavailable
        is raised. One that waits for its turn is waited for without a limit: `waiting` says how many runs come before it.
        """
        look = partial(self.get, submission)
        yield from watched(look, self._pause, interval_s=interval_s, patience_s=patience_s, monotonic=self._monotonic)

    def cancel(self, submission: str) -> types.Submission:
        """Cancel one that has not ended. Conflict."""
        return read(types.Submission, self._transport.call("POST", f"/v1/submissions/{submission}/cancel"))

    def logs(self, submission: str, after: datetime | None = None) -> types.Logs:
        """Return what its flow run logged at or after `after`, and the end of its engine's output."""
        since = after.isoformat() if after else None
        return read(types.Logs, self._transport.call("GET", f"/v1/submissions/{submission}/logs", after=since))

    def all_logs(self, submission: str) -> types.Logs:
        """Return everything that its flow run logged, and the end of its engine's output."""
        tail = LogTail()
        flow: list[types.LogLine] = []
        engine: list[str] = []
        more = True
        while more:
            more = tail.add(self.logs(submission, tail.after))
            flow += tail.new.flow
            engine += tail.new.engine
        return types.Logs(tuple(flow), tuple(engine))

    def follow_logs(
        self, submission: str, *, interval_s: float = 1.0, patience_s: float = _PATIENCE_S
    ) -> Iterator[tuple[types.Submission, types.Logs]]:
        """Yield the submission each `interval_s` with no lines, then with the lines that are new, until it has ended.

        A platform that does not answer, and a flow run that cannot be started, are waited for as by `watch`; then Unavailable is raised.
        """
        asking = Asking(self._pause, interval_s=interval_s, patience_s=patience_s, monotonic=self._monotonic)
        tail = LogTail()
        for current in self.watch(submission, interval_s=interval_s, patience_s=patience_s):
            yield current, types.Logs()
            more = True
            while more:
                more = tail.add(asking.answered(partial(self.logs, submission, tail.after)))
                if tail.new.flow or tail.new.engine:
                    yield current, tail.new


class LogTail:
    """Remembers which lines of a submission's logs were read."""

    def __init__(self) -> None:
        self.new = types.Logs()
        self.after: datetime | None = None
        self._seen: set[str] = set()
        self._engine: tuple[str, ...] = ()

    def add(self, found: types.Logs) -> bool:
        """Put the lines of `found` that were not read before into `new`. Returns whether the flow run may have logged another page."""
        flow = tuple(line for line in found.flow if line.id not in self._seen)
        self.new = types.Logs(flow, _lines_after(self._engine, found.engine))
        self._seen.update(line.id for line in flow)
        self._engine = found.engine
        self.after = found.flow[-1].at if found.flow else self.after
        return bool(flow)


def _lines_after(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines after `old` in a tail of the same output."""
    for size in range(min(len(old), len(new)), 0, -1):
        if old[-size:] == new[:size]:
            return new[size:]
    return new


class Models:
    """Model versions."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, limit: int = 100) -> tuple[types.Model, ...]:
        """Return versions, newest first."""
        return read_all(types.Model, self._transport.call("GET", "/v1/models", limit=limit))

    def get(self, version: str) -> types.Model:
        """Return one with its trials' reports; 8 characters of its id are enough."""
        return read(types.Model, self._transport.call("GET", f"/v1/models/{version}"))


class Endpoints:
    """Endpoints."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[types.Endpoint, ...]:
        """Return the endpoints that the key may call, by name."""
        return read_all(types.Endpoint, self._transport.call("GET", "/v1/endpoints"))

    def get(self, name: str) -> types.Endpoint:
        """Return one."""
        return read(types.Endpoint, self._transport.call("GET", f"/v1/endpoints/{name}"))

    def rollback(self, name: str) -> types.Rollback:
        """Take the candidate back, or bring the version before. Conflict when there is nothing to go back to."""
        return read(types.Rollback, self._transport.call("POST", f"/v1/endpoints/{name}/rollback"))

    def set_policy(self, name: str, **fields: Any) -> types.Endpoint:
        """Set what it promises (operators only): the fields of `Policy` and `keep_text_days`; those left out stay, None takes one away."""
        return read(types.Endpoint, self._transport.call("PATCH", f"/v1/endpoints/{name}/policy", body=fields))

    def remove(self, name: str) -> types.Endpoint:
        """Stop serving it (operators only) and return what it was. Conflict while a submission to it is open. History is kept."""
        return read(types.Endpoint, self._transport.call("DELETE", f"/v1/endpoints/{name}"))


class Rollouts:
    """Rollouts."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, endpoint: str | None = None, limit: int = 100) -> tuple[types.Rollout, ...]:
        """Return rollouts, newest first."""
        return read_all(types.Rollout, self._transport.call("GET", "/v1/rollouts", endpoint=endpoint, limit=limit))

    def get(self, rollout: str) -> types.Rollout:
        """Return one with its verdict."""
        return read(types.Rollout, self._transport.call("GET", f"/v1/rollouts/{rollout}"))


class FeedbackGroup:
    """Feedback: give, list, follow."""

    def __init__(self, transport: Transport, pause: Callable[[float], None], monotonic: Callable[[], float]) -> None:
        self._transport = transport
        self._pause = pause
        self._monotonic = monotonic

    def give(self, completion: str, *, thumb: Literal["up", "down"] | None = None, comment: str = "") -> None:
        """Say what you think of an answer. A second time replaces the first. It is kept for good when this returns."""
        self._transport.ask("/v1/feedback", {"completion_id": completion, "thumb": thumb, "comment": comment})

    def list(
        self, *, endpoint: str | None = None, submission: str | None = None, after: datetime | None = None, limit: int = 100
    ) -> tuple[types.Feedback, ...]:
        """Return feedback that came after `after`, oldest first."""
        since = after.isoformat() if after else None
        found = self._transport.call("GET", "/v1/feedback", endpoint=endpoint, submission=submission, after=since, limit=limit)
        return read_all(types.Feedback, found)

    def follow(
        self,
        *,
        endpoint: str | None = None,
        submission: str | None = None,
        after: datetime | None = None,
        interval_s: float = 1.0,
        patience_s: float = _PATIENCE_S,
    ) -> Iterator[types.Feedback]:
        """Yield feedback as it comes, each once, for ever. A changed vote comes again.

        A platform that does not answer is waited for, `patience_s` at most; then Unavailable is raised.
        """
        asking = Asking(self._pause, interval_s=interval_s, patience_s=patience_s, monotonic=self._monotonic)
        seen: dict[tuple[str, datetime], datetime] = {}
        newest = after
        while True:
            since = max(newest - _LATE, after) if newest and after else newest and newest - _LATE
            for feedback in self._pages(asking, endpoint, submission, since):
                if (feedback.completion, feedback.at) not in seen:
                    seen[feedback.completion, feedback.at] = feedback.at
                    newest = max(newest or feedback.at, feedback.at)
                    yield feedback
            seen = {identity: at for identity, at in seen.items() if newest and at >= newest - 2 * _LATE}
            self._pause(interval_s)

    def _pages(self, asking: Asking, endpoint: str | None, submission: str | None, after: datetime | None) -> Iterator[types.Feedback]:
        while True:
            page = asking.answered(partial(self.list, endpoint=endpoint, submission=submission, after=after, limit=_PAGE))
            yield from page
            if len(page) < _PAGE or page[-1].at == after:
                return
            after = page[-1].at


class Keys:
    """Keys (operators only)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, role: str, *, endpoints: Sequence[str] = (), expires_in_s: float | None = None, note: str = ""
    ) -> types.Key:
        """Make a key; its `secret` is in this answer and nowhere else."""
        body = {"name": name, "role": role, "endpoints": list(endpoints), "expires_in_s": expires_in_s, "note": note}
        return read(types.Key, self._transport.call("POST", "/v1/keys", body=body))

    def list(self) -> tuple[types.Key, ...]:
        """Return keys, newest first."""
        return read_all(types.Key, self._transport.call("GET", "/v1/keys"))

    def revoke(self, key: str) -> types.Key:
        """Revoke one. NotFound."""
        return read(types.Key, self._transport.call("DELETE", f"/v1/keys/{key}"))
