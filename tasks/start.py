"""Starting the candidate's engine at share 0, from the very weights that will serve."""

from __future__ import annotations

from core.endpoints import Rollout
from core.engine_memory import plan_memory
from core.engines import EnginePhase, EngineSpec, Role
from core.ids import VersionId
from core.submissions import StepName, Submission, SubmissionState
from core.versions import ModelVersion
from evals import harness
from lifecycle.capacity import await_fit
from lifecycle.engine_starts import EngineStarts, spec_of
from lifecycle.opening import Opening
from tasks.lease import this_driver
from tasks.step import StepReport, recorded, step_task
from wiring import Platform, platform


@step_task
def start(submission: Submission, version: ModelVersion) -> Rollout:
    """Open the rollout at share 0 and wait until the candidate's engine has generated something."""
    with recorded(submission.id, StepName.START) as report:
        here = platform()
        harness.warm()  # what the benchmark imports is there by the time the engine is
        spec = engine_spec(here, version)
        await_capacity(here, submission, spec, report)
        rollout = opening(here, report).open(submission.id, version.id, this_driver())
        warm = here.engines.state(version.id).phase is EnginePhase.READY
        engine_starts(here).request(spec)
        here.event_recorder.mark(version.id, submission.request.endpoint, Role.CANDIDATE)
        address = await_ready(here, version.id, report)
        plan = str(plan_memory(version.needs, here.settings.models, here.engine_host))
        report.say(f"engine of {version.short} is ready; {plan}", address=address, plan=plan)
        if warm:
            report.reuse(f"engine of {version.short} runs already")
        return rollout


def await_capacity(here: Platform, submission: Submission, spec: EngineSpec, report: StepReport) -> None:
    """Wait until the candidate's engine fits, before it is created. Refused with the numbers if it does not."""
    await_fit(
        here.capacity,
        spec,
        here.clock,
        queue_s=here.settings.kubernetes.queue_s,
        say=lambda why: report.progress(0.0, why),
        wanted=lambda: here.records.submissions.get(submission.id).state is not SubmissionState.CANCELLING,
    )


def opening(here: Platform, report: StepReport) -> Opening:
    """Return the use case of opening rollouts, with this process's adapters; the cause of a wait is the step's progress."""

    def waits(cause: str) -> None:
        report.progress(0.0, f"waiting: {cause}")

    return Opening(here.records, here.clock, here.driver, here.settings.rollout.pass_interval_s, waits)


def engine_spec(here: Platform, version: ModelVersion) -> EngineSpec:
    """Return the immutable spec of a version's engine, with this process's settings."""
    return spec_of(version, here.weights, here.settings.models, here.engine_host)


def engine_starts(here: Platform) -> EngineStarts:
    """Return the use cases of starting engines, with this process's adapters."""
    return EngineStarts(here.engines, here.activator, here.clock, here.longest_start_s)


def await_ready(here: Platform, version: VersionId, report: StepReport | None = None) -> str:
    """Wait for a requested engine and return its address, as `EngineStarts.await_ready` does; its state is the step's progress."""

    def look(detail: str) -> None:
        if report is not None:
            report.progress(0.0, detail)

    return engine_starts(here).await_ready(version, look)
