"""MLflow as the history of benchmarks: a run per benchmark, and one long-lived run per endpoint and suite that holds the curves.

Each endpoint has one experiment, `<endpoint>/benchmarks`; a benchmark of a version without an endpoint goes to `<version>/benchmarks`.
The metrics of the long-lived run have a point per benchmark at its step and start, so that MLflow's own page draws them over time.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from core.benchmarks import Benchmark, BenchmarkState
from core.errors import Fault, NotFound, Transient
from core.ports.history import Recorded
from core.reasons import Reason
from core.settings import base_environ
from core.shown import rounded, suite_title
from registry.metric_names import metric_name, readable
from registry.models import NOTE_TAG, experiment_named, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_FORMER = "seatrial-benchmarks"
"""Experiments were called `seatrial-benchmarks/<endpoint>` before; one that is found is renamed."""
_STATUS = {BenchmarkState.RUNNING: "RUNNING", BenchmarkState.DONE: "FINISHED", BenchmarkState.FAILED: "FAILED"}
_ABOUT = "Benchmarks of {owner}: one run per benchmark, and one run `SUITE over time` per suite whose metrics have a point per benchmark."
_BENCHMARK_TAG = "seatrial.benchmark"
_CURVE_TAG = "seatrial.curve"
_SCHEME = "mlflow-run:"
_FETCH_TIMEOUT_S = 60.0
_MOST_BYTES = 256 * 1024**2
_COMPACT_S = 900.0
_DELETED_FOR = "1d"
"""Runs are restorable for this long after their removal."""
_BATCH = 500  # the server takes 1000 metrics at once


class MlflowBenchmarks:
    """`BenchmarkHistory` on an MLflow tracking server. Reading rows needs no import of MLflow (the control API reads them too)."""

    def __init__(self, tracking_uri: str, *, store_url: str = "", artifacts: str = "") -> None:
        """Make a client. `store_url` is the server's own database where this machine holds it; `artifacts` the place of its files."""
        self._uri = tracking_uri.rstrip("/")
        self._store_url = store_url
        self._artifacts = artifacts
        self._opened: MlflowClient | None = None

    @property
    def _client(self) -> MlflowClient:
        if self._opened is None:
            from mlflow import MlflowClient  # noqa: PLC0415 - seconds of import that only writing needs

            self._opened = MlflowClient(self._uri, registry_uri=self._uri)
        return self._opened

    def record(self, benchmark: Benchmark, model: str, curves: Mapping[str, float], files: Mapping[str, Path], *, order: int) -> Recorded:
        """Enter a benchmark and a point on its curves."""
        with translated(self._uri):
            owner = benchmark.endpoint or benchmark.version[:12]
            tags = {"seatrial.kind": "benchmarks", "seatrial.endpoint": benchmark.endpoint or "", NOTE_TAG: _ABOUT.format(owner=owner)}
            experiment = experiment_named(self._client, f"{owner}/benchmarks", tags, former=f"{_FORMER}/{owner}")
            curve = self._curve(experiment, benchmark)
            run = self._run(experiment, benchmark, model, curve)
            self._log(run, benchmark.numbers, benchmark, step=0)
            self._log(curve, curves, benchmark, step=order)
            for name, path in files.items():
                self._log_file(run, name, path)
            self._end(run, benchmark)
            self._client.set_terminated(curve, "FINISHED", _ended(benchmark))
        return Recorded(f"{self._uri}/#/experiments/{experiment}/runs/{run}", f"{_SCHEME}{run}/rows.jsonl.gz")

    def fetch(self, uri: str, into: Path) -> None:
        """Write the rows of a run to a file, without MLflow's own client."""
        run, _, path = uri.removeprefix(_SCHEME).partition("/")
        if not uri.startswith(_SCHEME) or not path:
            raise Fault(f"{uri[:200]!r} is not the address of benchmark rows", hint="use the release that wrote it")
        try:
            with httpx.stream(
                "GET",
                f"{self._uri}/get-artifact",
                params={"run_id": run, "path": path},
                headers={"Accept-Encoding": "identity"},
                timeout=_FETCH_TIMEOUT_S,
                trust_env=False,
            ) as answer:
                _check(answer, uri, self._uri)
                _write(answer, into)
        except httpx.TransportError as error:
            raise Transient(f"MLflow at {self._uri} did not answer: {error}", hint="see that it runs") from error

    def _end(self, run: str, benchmark: Benchmark) -> None:
        if benchmark.ended:
            self._client.set_terminated(run, _STATUS[benchmark.state], _ended(benchmark))
        else:
            self._client.update_run(run, _STATUS[benchmark.state])

    def forget(self, benchmark: Benchmark) -> None:
        """Move the run to MLflow's deleted ones; `compact` (or `mlflow gc` beside the server) then frees the space."""
        run = benchmark.rows_uri.removeprefix(_SCHEME).partition("/")[0]
        if not benchmark.rows_uri.startswith(_SCHEME) or not run:
            return
        with translated(self._uri), suppress(NotFound):
            self._client.delete_run(run)

    def compact(self) -> bool:
        """Run `mlflow gc` on the server's database, where this machine holds it: the server itself has no call for it (3.17)."""
        if not self._store_url or not self._removed_any():
            return False
        command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", self._store_url, "--older-than", _DELETED_FOR]
        if self._artifacts:
            command += ["--artifacts-destination", self._artifacts]
        environ = {**base_environ(), "MLFLOW_TRACKING_URI": self._uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
        try:
            ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_COMPACT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise Transient(f"mlflow gc did not end within {_COMPACT_S:.0f} s", hint="wait for the next housekeeping pass") from error
        if ended.returncode:
            said = (ended.stderr.strip().splitlines() or ["no output"])[-1][:300]
            raise Fault(f"mlflow gc ended with exit code {ended.returncode}: {said}", hint="run it by hand; see docs/operations.md")
        return True

    def _removed_any(self) -> bool:
        from mlflow.entities import ViewType  # noqa: PLC0415

        with translated(self._uri):
            experiments = [str(found.experiment_id) for found in self._client.search_experiments()]
            return bool(experiments and self._client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY, max_results=1))

    def _curve(self, experiment: str, benchmark: Benchmark) -> str:
        suite = metric_name(f"{benchmark.plan.suite}-{benchmark.plan.form}")
        found = self._find(experiment, _CURVE_TAG, suite)
        if found is None:
            name = f"{suite_title(benchmark.plan.suite)} ({benchmark.plan.form}) over time"
            tags = {_CURVE_TAG: suite, "seatrial.endpoint": benchmark.endpoint or ""}
            found = self._client.create_run(experiment, start_time=_started(benchmark), run_name=name, tags=tags)
        return str(found.info.run_id)

    def _run(self, experiment: str, benchmark: Benchmark, model: str, curve: str) -> str:
        found = self._find(experiment, _BENCHMARK_TAG, benchmark.id)
        if found is None:
            found = self._client.create_run(
                experiment, start_time=_started(benchmark), run_name=run_title(benchmark, model), tags=_tags(benchmark, model, curve)
            )
        run = str(found.info.run_id)
        from mlflow.entities import Param  # noqa: PLC0415

        self._client.log_batch(run, params=[Param(name, value[:6000]) for name, value in _params(benchmark).items()])
        return run

    def _find(self, experiment: str, tag: str, value: str) -> Run | None:
        found = self._client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1, order_by=["attributes.start_time ASC"])
        return found[0] if found else None

    def _log(self, run: str, numbers: Mapping[str, float], benchmark: Benchmark, *, step: int) -> None:
        """Log numbers at the benchmark's start, which never moves; the same point again is the same row in MLflow's table."""
        from mlflow.entities import Metric  # noqa: PLC0415

        metrics = [
            Metric(readable(name), rounded(value), _started(benchmark), step)
            for name, value in sorted(numbers.items())
            if math.isfinite(value)
        ]
        for begin in range(0, len(metrics), _BATCH):
            self._client.log_batch(run, metrics=metrics[begin : begin + _BATCH])

    def _log_file(self, run: str, name: str, path: Path) -> None:
        from tempfile import TemporaryDirectory  # noqa: PLC0415

        with TemporaryDirectory(prefix="seatrial-artifact-") as folder:
            named = Path(folder) / name
            named.symlink_to(path.absolute())
            self._client.log_artifact(run, str(named))


def run_title(benchmark: Benchmark, model: str) -> str:
    """Return a run's name for people: `org/model@1a2b3c4d -> chat, harbour, 2026-11-27 11:20` (UTC)."""
    where = f" -> {benchmark.endpoint}" if benchmark.endpoint else ""
    return f"{model}{where}, {suite_title(benchmark.plan.suite)}, {datetime.fromtimestamp(benchmark.started_at, UTC):%Y-%m-%d %H:%M}"


def _started(benchmark: Benchmark) -> int:
    return int(benchmark.started_at * 1000)


def _ended(benchmark: Benchmark) -> int:
    return int((benchmark.ended_at or benchmark.started_at) * 1000)


def _tags(benchmark: Benchmark, model: str, curve: str) -> dict[str, str]:
    said = f"{benchmark.decision or 'no decision'}: {benchmark.reason}" if benchmark.reason else str(benchmark.state)
    return {
        NOTE_TAG: f"{said}\n\nOn the command line: `seatrial bench show {benchmark.id}`",
        _BENCHMARK_TAG: benchmark.id,
        "seatrial.model": model,
        "seatrial.decision": str(benchmark.decision or ""),
        "seatrial.version": benchmark.version,
        "seatrial.endpoint": benchmark.endpoint or "",
        "seatrial.trigger": str(benchmark.trigger),
        "seatrial.curve_run": curve,
    }


def _params(benchmark: Benchmark) -> dict[str, str]:
    plan = benchmark.plan
    return {
        "version": benchmark.version,
        "suite": plan.suite,
        "suite_digest": plan.suite_digest,
        "prompt": plan.prompt,
        "extractor": plan.extractor,
        "form": str(plan.form),
        "samples": str(plan.samples),
        "grid": " ".join(point.key for point in plan.grid),
        "seed": str(plan.seed),
        "plan": plan.key,
    }


def _check(answer: httpx.Response, uri: str, where: str) -> None:
    if answer.is_success:
        return
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(f"MLflow at {where} has no {uri}", reason=Reason.NO_ANSWERS, hint="its run was deleted; run the benchmark again")
    if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise Transient(f"MLflow at {where} answered {answer.status_code} for {uri}", hint="see that it runs")
    raise Fault(f"MLflow at {where} refused {uri}: {answer.status_code}", hint="look in its log")


def _write(answer: httpx.Response, into: Path) -> None:
    size = 0
    with into.open("wb") as file:
        for piece in answer.iter_raw():
            size += len(piece)
            if size > _MOST_BYTES:
                raise Fault(f"the rows are larger than {_MOST_BYTES} bytes", hint="read the artifact in MLflow")
            file.write(piece)
