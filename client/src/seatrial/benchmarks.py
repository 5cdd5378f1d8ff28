"""The SDK's verbs of benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from seatrial import types
from seatrial.patience import Asking, Patience, watched
from seatrial.transport import Transport
from seatrial.types import read, read_all

_PATIENCE_S = 60.0


class Benchmarks:
    """Benchmarks: start, look, watch, compare, study."""

    def __init__(self, transport: Transport, pause: Callable[[float], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._pause = pause
        self._monotonic = monotonic

    def start(
        self,
        target: str | Path,
        *,
        suite: str | Path = "harbour",
        samples: int = 1,
        temperature: Sequence[float] = (0.0,),
        frequency_penalty: Sequence[float] = (0.0,),
        top_p: float = 1.0,
        max_tokens: int = 0,
        form: Literal["completion", "chat", "own"] = "own",
    ) -> types.Benchmark:
        """Ask every problem `samples` times at every temperature with every frequency penalty; returns at once.

        `target` is an endpoint (what it serves), `ORG/MODEL`, a folder that was submitted, or 8 characters of a version's id. `suite` is
        a name, or the path of a .jsonl file on the platform's machine. `max_tokens` 0 is the suite's own longest answer, `form` "own"
        is the model's: chat where it has a chat template, else completion.
        """
        body = {
            "target": str(target), "suite": str(suite), "samples": samples, "temperature": list(temperature),
            "frequency_penalty": list(frequency_penalty), "top_p": top_p, "max_tokens": max_tokens, "form": form,
        }  # fmt: skip
        return read(types.Benchmark, self._transport.call("POST", "/v1/benchmarks", body=body))

    def get(self, benchmark: str) -> types.Benchmark:
        """Return one."""
        return read(types.Benchmark, self._transport.call("GET", f"/v1/benchmarks/{benchmark}"))

    def list(
        self,
        *,
        endpoint: str | None = None,
        version: str | None = None,
        state: str | None = None,
        trigger: str | None = None,
        limit: int = 100,
    ) -> tuple[types.Benchmark, ...]:
        """Return benchmarks, newest first."""
        asked = {"endpoint": endpoint, "version": version, "state": state, "trigger": trigger, "limit": limit}
        return read_all(types.Benchmark, self._transport.call("GET", "/v1/benchmarks", **asked))

    def watch(self, benchmark: str, *, interval_s: float = 1.0, patience_s: float = _PATIENCE_S) -> Iterator[types.Benchmark]:
        """Yield the benchmark each `interval_s` until it has ended; the last one is its end.

        A platform that does not answer is waited for, `patience_s` at most, and so is a flow run that cannot be started; then Unavailable
        is raised. One that waits for its turn is waited for without a limit: `waiting` says how many runs come before it.
        """
        look = partial(self.get, benchmark)
        yield from watched(look, self._pause, interval_s=interval_s, patience_s=patience_s, monotonic=self._monotonic)

    def problems(self, benchmark: str) -> tuple[types.Problem, ...]:
        """Return every problem: how often it was solved, the first failing check, and against the baseline. NotFound while it runs."""
        return read_all(types.Problem, self._transport.call("GET", f"/v1/benchmarks/{benchmark}/problems"))

    def answers(self, benchmark: str, *, problem: str | None = None, limit: int = 100) -> tuple[types.Answer, ...]:
        """Return answers as they were given and judged: of one problem, or the first ones."""
        found = self._transport.call("GET", f"/v1/benchmarks/{benchmark}/answers", problem=problem, limit=limit)
        return read_all(types.Answer, found)

    def compare(self, candidate: str, baseline: str, *, margin: float = 0.05) -> types.Comparison:
        """Hold one run against another of the same problems. Conflict when they asked different ones."""
        found = self._transport.call("GET", "/v1/benchmarks/compare", candidate=candidate, baseline=baseline, margin=margin)
        return read(types.Comparison, found)

    def power(
        self, problems: int, *, samples: int | None = None, points: float | None = None, pass_rate: float | None = None, power: float = 0.9
    ) -> types.Power:
        """Say how many points so many samples a problem catch, or (with `points`) how many samples catch so many points."""
        asked = {"problems": problems, "samples": samples, "points": points, "pass_rate": pass_rate, "power": power}
        return read(types.Power, self._transport.call("GET", "/v1/benchmarks/power", **asked))

    def cancel(self, benchmark: str) -> types.Benchmark:
        """Cancel one that runs. Conflict when it has ended."""
        return read(types.Benchmark, self._transport.call("POST", f"/v1/benchmarks/{benchmark}/cancel"))

    def study(
        self,
        benchmark: str,
        *,
        policies: Sequence[str] = ("random", "mean_logprob", "voting"),
        best_of: Sequence[int] = (1, 4, 8),
        ranker_url: str = "",
        ranker_model: str = "",
    ) -> types.Study:
        """Compare ways of choosing among several answers, on the rows of a benchmark that is done; returns at once."""
        body = {"policies": list(policies), "best_of": list(best_of), "ranker_url": ranker_url, "ranker_model": ranker_model}
        return read(types.Study, self._transport.call("POST", f"/v1/benchmarks/{benchmark}/studies", body=body))

    def watch_study(self, study: types.Study, *, interval_s: float = 1.0, patience_s: float = _PATIENCE_S) -> dict[str, object]:
        """Wait for a study's end and return its document (`state`, `rows`, `reason`). Raises Unavailable as `watch` does."""
        patience = Patience(patience_s, self._monotonic)
        asking = Asking(self._pause, interval_s=interval_s, patience_s=patience_s, monotonic=self._monotonic)
        look = partial(self.get, study.benchmark)
        while (found := asking.answered(look).studies[study.study])["state"] == "running":
            waiting = found.get("waiting")
            patience.see(read(types.Waiting, waiting) if waiting else None)
            self._pause(interval_s)
        return dict(found)
