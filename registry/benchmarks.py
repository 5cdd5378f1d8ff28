"""MLflow as the history of benchmarks: a run per benchmark, and one long-lived run per endpoint and suite that holds the curves.

Everything lies in one experiment per endpoint (`seatrial-benchmarks/<endpoint>`, or the version where it was asked by its id). The
long-lived run's metrics have a point per benchmark at its step and time, so that MLflow's own page draws them over time.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from core.benchmarks import Benchmark
from core.errors import Fault, NotFound, Transient
from core.ports.history import Recorded
from core.settings import base_environ
from registry.models import experiment_named, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "seatrial-benchmarks"
_BENCHMARK_TAG = "seatrial.benchmark"
_CURVE_TAG = "seatrial.curve"
_FORBIDDEN = re.compile(r"[^\w./ -]")
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

    def record(self, benchmark: Benchmark, curves: Mapping[str, float], files: Mapping[str, Path], *, order: int) -> Recorded:
        """Enter a benchmark and a point on its curves."""
        with translated(self._uri):
            experiment = experiment_named(
                self._client, f"{EXPERIMENT}/{benchmark.endpoint or benchmark.version[:12]}", {"seatrial.parent": EXPERIMENT}
            )
            curve = self._curve(experiment, benchmark)
            run = self._run(experiment, benchmark, curve)
            self._log(run, benchmark.numbers, benchmark, step=0)
            self._log(curve, curves, benchmark, step=order)
            for name, path in files.items():
                self._log_file(run, name, path)
            self._client.set_terminated(run, "FINISHED" if benchmark.state == "done" else "FAILED", _millis(benchmark))
        return Recorded(f"{self._uri}/#/experiments/{experiment}/runs/{run}", f"{_SCHEME}{run}/rows.jsonl.gz")

    def fetch(self, uri: str, into: Path) -> None:
        """Write the rows of a run to a file, without MLflow's own client."""
        run, _, path = uri.removeprefix(_SCHEME).partition("/")
        if not uri.startswith(_SCHEME) or not path:
            raise Fault(f"{uri[:200]!r} is no address of rows", hint="was it written by another release?")
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
            tags = {_CURVE_TAG: suite, "seatrial.endpoint": benchmark.endpoint or ""}
            found = self._client.create_run(experiment, run_name=f"{suite} over time", tags=tags)
        return str(found.info.run_id)

    def _run(self, experiment: str, benchmark: Benchmark, curve: str) -> str:
        found = self._find(experiment, _BENCHMARK_TAG, benchmark.id)
        if found is None:
            found = self._client.create_run(
                experiment, start_time=int(benchmark.started_at * 1000), run_name=benchmark.id, tags=_tags(benchmark, curve)
            )
        run = str(found.info.run_id)
        from mlflow.entities import Param  # noqa: PLC0415

        self._client.log_batch(run, params=[Param(name, value[:6000]) for name, value in _params(benchmark).items()])
        return run

    def _find(self, experiment: str, tag: str, value: str) -> Run | None:
        found = self._client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1, order_by=["attributes.start_time ASC"])
        return found[0] if found else None

    def _log(self, run: str, numbers: Mapping[str, float], benchmark: Benchmark, *, step: int) -> None:
        """Log numbers at the benchmark's time; the same point again is the same row in MLflow's table."""
        from mlflow.entities import Metric  # noqa: PLC0415

        metrics = [
            Metric(metric_name(name), float(value), _millis(benchmark), step)
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


def metric_name(name: str) -> str:
    """Return a name that MLflow takes for a metric: letters, digits, `_`, `.`, `-`, `/` and spaces."""
    return _FORBIDDEN.sub("_", name)[:250]


def _millis(benchmark: Benchmark) -> int:
    return int((benchmark.ended_at or benchmark.started_at) * 1000)


def _tags(benchmark: Benchmark, curve: str) -> dict[str, str]:
    return {
        _BENCHMARK_TAG: benchmark.id,
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
        raise NotFound(f"MLflow at {where} has no {uri}", reason="no_answers", hint="its run was deleted; run the benchmark again")
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
