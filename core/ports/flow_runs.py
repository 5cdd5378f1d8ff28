"""The orchestrator that drives submissions, benchmarks and studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from core.flow_runs import Deployment, LogLine, RunState
from core.ids import BenchmarkId, Epoch, SubmissionId


class FlowRuns(Protocol):
    """Starts, cancels and reads flow runs. Adapter: Prefect's REST API.

    The rows are the truth; a run only drives a row. Errors: Transient (unavailable, overloaded), NotFound (run or deployment).
    """

    def start(self, submission: SubmissionId, attempt: int, request: Mapping[str, str]) -> str:
        """Start `deploy_model` and return the run's id. The same (submission, attempt) again returns the same run.

        NotFound while the flow runner has not registered the deployment.
        """
        ...

    def start_benchmark(self, benchmark: BenchmarkId, attempt: int, request: Mapping[str, Any]) -> str:
        """Start `benchmark` for a row and return the run's id. The same (benchmark, attempt) again returns the same run. NotFound."""
        ...

    def start_study(self, study: str, request: Mapping[str, Any]) -> str:
        """Start a sampling study and return the run's id. The same study again returns the same run. NotFound."""
        ...

    def state(self, run_id: str) -> RunState | None:
        """Return a run's state; None when it has none yet. NotFound."""
        ...

    def ahead(self, run_id: str) -> int:
        """Return how many runs of the platform that have not ended come before this one. NotFound."""
        ...

    def deployment_of(self, run_id: str) -> Deployment:
        """Return the deployment of a run, with the obstacle that keeps its runs from starting. NotFound (run or deployment)."""
        ...

    def deployments(self) -> tuple[Deployment, ...]:
        """Return the deployments that the platform starts runs of, each with its obstacle. One that is missing is not `registered`."""
        ...

    def cancel(self, run_id: str) -> None:
        """Ask the runner to end a run: it is `Cancelling` until its process has ended. Cancelling an ended run does nothing."""
        ...

    def crash(self, run_id: str) -> None:
        """Mark a run whose process has ended, so that it no longer counts as running. Marking an ended run does nothing."""
        ...

    def logs(self, run_id: str, after: Epoch | None = None) -> tuple[LogLine, ...]:
        """Return the first lines at or after `after`, oldest first, 200 at most. An unknown run has none."""
        ...
