"""The calls of Prefect's REST API (3.8) that the platform needs. It does not import Prefect: that takes seconds and 100 MB."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from random import uniform
from typing import Any, Final

import httpx

from core.errors import Fault, NotFound, Refused, Transient
from core.flow_runs import BENCHMARK, DEPLOY, STUDY, Deployment, LogLine, Obstacle, RunState, RunType
from core.ids import BenchmarkId, Epoch, SubmissionId
from core.ports.clock import Clock, SystemClock
from core.reasons import Reason
from core.shown import benchmark_title, run_title

_OURS: Final = {"deployments": {"name": {"any_": ["submit", "on-demand", "nightly"]}}}
_STARTED: Final = (DEPLOY, BENCHMARK, STUDY)
_RAISE: Final = "raise the limit on Prefect's page"
_RESTART: Final = "restart the flow runner, which registers it"
_OPEN: Final = (RunType.SCHEDULED, RunType.PENDING, RunType.RUNNING, RunType.CANCELLING)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_PAGE = 200  # the server's own limit
_LEVELS = ((50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"), (0, "DEBUG"))


class PrefectRuns:
    """Implements `FlowRuns` with one Prefect server. Errors: also Fault (Prefect refuses our call)."""

    def __init__(self, prefect_api_url: str, *, timeout_s: float = 10.0, patience_s: float = 8.0, clock: Clock | None = None) -> None:
        self._http = httpx.Client(base_url=prefect_api_url.rstrip("/") + "/", timeout=timeout_s, trust_env=False)
        self._url = prefect_api_url
        self._patience_s = patience_s
        self._flow_names: dict[str, str] = {}
        self._clock = clock or SystemClock()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def start(self, submission: SubmissionId, attempt: int, request: Mapping[str, str]) -> str:
        """Start `deploy_model` and return the run's id. The same (submission, attempt) again returns the same run.

        NotFound while the flow runner has not registered the deployment.
        """
        body = {
            "name": run_title(request["model"], request["endpoint"]),
            "parameters": {"request": dict(request)},
            "idempotency_key": f"{submission}-{attempt}",
            "tags": ["seatrial", submission],
        }
        return self._run(DEPLOY, body)

    def start_benchmark(self, benchmark: BenchmarkId, attempt: int, request: Mapping[str, Any]) -> str:
        """Start `benchmark` for a row and return the run's id. The same (benchmark, attempt) again returns the same run. NotFound."""
        key = f"{benchmark}-{attempt}"
        body = {
            "name": benchmark_title(str(request.get("suite", "")), str(request.get("target", ""))),
            "parameters": {"request": {**request, "benchmark": benchmark}},
            "idempotency_key": key,
            "tags": ["seatrial", benchmark],
        }
        return self._run(BENCHMARK, body)

    def start_study(self, study: str, request: Mapping[str, Any]) -> str:
        """Start a sampling study and return the run's id. The same study again returns the same run. NotFound."""
        body = {
            "name": f"policies on {request.get('benchmark', study)}",
            "parameters": {"request": dict(request)},
            "idempotency_key": study,
            "tags": ["seatrial", study],
        }
        return self._run(STUDY, body)

    def state(self, run_id: str) -> RunState | None:
        """Return a run's state; None when it has none yet. NotFound."""
        return _state(self._call("GET", f"flow_runs/{run_id}", f"flow run {run_id}"))

    def last_ended(self) -> RunState | None:
        """Return the state of the run of ours that ended last; None when none has."""
        body = {
            **_OURS,
            "flow_runs": {"state": {"type": {"any_": [RunType.COMPLETED, RunType.FAILED, RunType.CRASHED]}}},
            "sort": "END_TIME_DESC",
            "limit": 1,
        }
        found = self._call("POST", "flow_runs/filter", "the last flow run", body)
        return _state(found[0]) if found else None

    def ahead(self, run_id: str) -> int:
        """Return how many runs of ours that have not ended come before this one: they have slots, or get them first. NotFound."""
        expected = self._call("GET", f"flow_runs/{run_id}", f"flow run {run_id}")["expected_start_time"]
        chosen = {"state": {"type": {"any_": list(_OPEN)}}, "expected_start_time": {"before_": expected}}
        found = self._call("POST", "flow_runs/count", "the open flow runs", {**_OURS, "flow_runs": chosen})
        return max(0, int(found) - 1)  # "before" includes the moment, and so the run itself

    def deployment_of(self, run_id: str) -> Deployment:
        """Return the deployment of a run, with the obstacle that keeps its runs from starting. NotFound (run or deployment)."""
        chosen = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 1}
        found = self._call("POST", "deployments/filter", f"deployment of flow run {run_id}", chosen)
        if not found:
            raise NotFound(f"Prefect has no deployment of flow run {run_id}", reason=Reason.UNKNOWN_RUN, hint=_RESTART)
        flow = found[0]["flow_id"]
        if flow not in self._flow_names:
            self._flow_names[flow] = self._call("GET", f"flows/{flow}", f"flow of flow run {run_id}")["name"]
        return self._deployment(f"{self._flow_names[flow]}/{found[0]['name']}", found[0])

    def deployments(self) -> tuple[Deployment, ...]:
        """Return the deployments that the platform starts runs of, each with its obstacle. One that is missing is not `registered`."""
        flow_names, names = zip(*(name.split("/") for name in _STARTED), strict=True)
        flows = {"flows": {"name": {"any_": flow_names}}}
        flow_of = {found["id"]: found["name"] for found in self._call("POST", "flows/filter", "the flows", flows)}
        chosen = {**flows, "deployments": {"name": {"any_": names}}}
        found = self._call("POST", "deployments/filter", "the deployments", chosen)
        by_name = {f"{flow_of.get(one['flow_id'])}/{one['name']}": one for one in found}
        return tuple(self._deployment(name, by_name[name]) if name in by_name else _missing(name) for name in _STARTED)

    def cancel(self, run_id: str) -> None:
        """Ask the runner to end a run: it is `Cancelling` until its process is gone. Cancelling an ended run does nothing."""
        current = self.state(run_id)
        if current is None or not current.ended:
            self._set_state(run_id, RunType.CANCELLING, "Cancelling", "the submission was cancelled")

    def crash(self, run_id: str) -> None:
        """Mark a run whose process is known to be gone, so that it no longer counts as running. Marking an ended run does nothing."""
        current = self.state(run_id)
        if current is None or not current.ended:
            self._set_state(run_id, RunType.CRASHED, "Crashed", "its process is gone")

    def logs(self, run_id: str, after: Epoch | None = None) -> tuple[LogLine, ...]:
        """Return the first lines at or after `after`, oldest first, 200 at most. A run that is not known has none."""
        chosen: dict[str, Any] = {"flow_run_id": {"any_": [run_id]}}
        if after is not None:
            chosen["timestamp"] = {"after_": datetime.fromtimestamp(after, UTC).isoformat()}
        body = {"logs": chosen, "sort": "TIMESTAMP_ASC", "limit": _PAGE}
        return tuple(_line(found) for found in self._call("POST", "logs/filter", f"the logs of flow run {run_id}", body))

    def _run(self, deployment: str, body: Mapping[str, Any]) -> str:
        found = self._call("GET", f"deployments/name/{deployment}", f"deployment {deployment}")
        run = self._call("POST", f"deployments/{found['id']}/create_flow_run", f"deployment {deployment}", body)
        return str(run["id"])

    def _deployment(self, name: str, found: Mapping[str, Any]) -> Deployment:
        limit, pool = found.get("global_concurrency_limit"), found.get("work_pool_name") or ""
        return Deployment(
            name,
            _time(found.get("last_polled")),
            limit["limit"] if limit else None,
            pool,
            obstacle=_limited(f"the deployment {name}", limit) or (self._of_pool(pool, found.get("work_queue_id")) if pool else None),
        )

    def _of_pool(self, pool: str, queue_id: str | None) -> Obstacle | None:
        """Return the setting that keeps the workers of a pool from taking the runs of one of its queues."""
        found = _closed(f"the work pool {pool}", self._call("GET", f"work_pools/{pool}", f"work pool {pool}"))
        if found is not None or queue_id is None:
            return found
        queue = self._call("GET", f"work_queues/{queue_id}", f"work queue {queue_id}")
        return _closed(f"the work queue {queue['name']} of the work pool {pool}", queue)

    def _set_state(self, run_id: str, kind: RunType, name: str, message: str) -> None:
        body = {"state": {"type": kind, "name": name, "message": message}, "force": True}
        self._call("POST", f"flow_runs/{run_id}/set_state", f"flow run {run_id}", body)

    def _call(self, method: str, path: str, what: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call, and call again with growing pauses while Prefect is busy (its SQLite answers 503) or restarting.

        Each of our calls may be repeated: runs carry an idempotency key, and a second pass of reconcile changes nothing.
        """
        give_up = self._clock.monotonic() + self._patience_s
        for attempt in count():
            try:
                return self._once(method, path, what, body)
            except Transient as error:
                pause = max(error.retry_after_s or 0.0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * uniform(0.5, 1.0))  # noqa: S311
                if self._clock.monotonic() + pause > give_up:
                    raise
                self._clock.wait(pause)
        raise AssertionError("count() never ends")

    def _once(self, method: str, path: str, what: str, body: Mapping[str, Any] | None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise Transient(f"Prefect at {self._url} does not answer: {error}", hint="is it up? `seatrial doctor` tells") from error
        return _read(answer, what)


def _state(run: Mapping[str, Any]) -> RunState | None:
    found = run.get("state")
    if not found:
        return None
    at = _time(found.get("timestamp")) or 0.0
    due = _time(run.get("next_scheduled_start_time") or run.get("expected_start_time"))
    began = run.get("start_time") is not None
    return RunState(
        RunType.read(found["type"]), found["name"], found.get("message") or "", began=began, at=at, due=at if due is None else due
    )


def _missing(name: str) -> Deployment:
    return Deployment(name, registered=False, obstacle=Obstacle(f"Prefect has no deployment {name}", _RESTART))


def _limited(name: str, limit: Mapping[str, Any] | None) -> Obstacle | None:
    """Return the obstacle that a deployment's limit is. One that is switched off grants no slot either (Prefect 3.8)."""
    if limit is None:
        return None
    if limit["limit"] == 0:
        return Obstacle(f"the concurrency limit of {name} is 0", _RAISE)
    if not limit["active"]:
        return Obstacle(f"the concurrency limit of {name} is inactive and grants no slots", "activate the limit on Prefect's page")
    return None


def _closed(name: str, found: Mapping[str, Any]) -> Obstacle | None:
    if found["is_paused"]:
        return Obstacle(f"{name} is paused", "resume it on Prefect's page")
    if found["concurrency_limit"] == 0:
        return Obstacle(f"the concurrency limit of {name} is 0", _RAISE)
    return None


def _time(shown: str | None) -> Epoch | None:
    return Epoch(datetime.fromisoformat(shown).timestamp()) if shown else None


def _read(answer: httpx.Response, what: str) -> Any:
    if answer.is_success:
        return answer.json() if answer.content else None
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(f"Prefect has no {what}", reason=Reason.UNKNOWN_RUN, hint="is the flow runner up? `seatrial doctor` tells")
    if answer.is_server_error or answer.status_code in {408, 409, 425, 429}:
        delay = answer.headers.get("Retry-After", "")
        raise Transient(
            f"Prefect answered {answer.status_code} for {what}",
            hint="try again in a minute",
            retry_after_s=float(delay) if delay.isdecimal() else None,
        )
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY and "uuid" in answer.text.lower():
        raise Refused(f"{what} is not an id of Prefect", reason=Reason.BAD_RUN_ID, hint="give the id of a flow run")
    raise Fault(f"Prefect refused our call for {what}: {answer.status_code} {answer.text[:200]}", hint="is it Prefect 3.8?")


def _line(found: Mapping[str, Any]) -> LogLine:
    level = next(name for least, name in _LEVELS if int(found["level"]) >= least)
    return LogLine(str(found["id"]), datetime.fromisoformat(found["timestamp"]).timestamp(), level, str(found["message"]))
