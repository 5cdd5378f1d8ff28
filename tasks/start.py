"""Starting the candidate's engine, dark: from the very weights that will serve, at share 0."""

from __future__ import annotations

import itertools

from core.endpoints import Rollout, RolloutState, Withdrawal
from core.engine_memory import plan_memory
from core.engines import ANOTHERS, EngineCause, EnginePhase, EngineSpec, EngineState, Responsible, Role
from core.errors import Conflict, Refused, Transient
from core.ids import Digest, RolloutId, VersionId
from core.submissions import StepName, Submission, SubmissionState
from core.versions import ModelVersion
from evals import harness
from lifecycle.capacity import await_fit
from lifecycle.rollouts.precedence import superseded
from lifecycle.submissions import set_rollout
from tasks.lease import this_driver
from tasks.step import StepReport, recorded, step_task, stop_if_cancelled
from wiring import Platform, platform

_LOOK_S = 0.2
_ACTIVATE_EVERY = 50
"""Looks between two activations: an autoscaler that was just deciding may undo the first."""
_HINTS = {
    Responsible.SUBMITTER: "correct the model and submit it again; the engine's log is in `seatrial logs`",
    Responsible.OPERATOR: "ask the platform's operator: the cause is not the model, see `seatrial doctor`; then submit again",
    Responsible.EITHER: "read the engine's log with `seatrial logs`; correct the model or submit a smaller one, or ask the operator to "
    "give engines more memory or time (SEATRIAL_MODELS_ENGINE_MEMORY_BYTES, SEATRIAL_MODELS_ENGINE_START_LIMIT_S); then submit again",
}
_HINTS_OF_CAUSES = {
    EngineCause.ILLEGAL_INSTRUCTION: "ask the platform's operator to run `seatrial doctor` on the engine's machine: it lists the CPU's "
    "features and the kernels that engines use; then submit again",
    EngineCause.BUS_ERROR: "ask the platform's operator to make room in /dev/shm on the engine's machine; then submit again",
}


@step_task
def start(submission: Submission, version: ModelVersion) -> Rollout:
    """Open the rollout at share 0 and wait until the candidate's engine has generated something."""
    with recorded(submission.id, StepName.START) as report:
        here = platform()
        harness.warm()  # what the benchmark imports is there by the time the engine is
        spec = engine_spec(here, version)
        await_capacity(here, submission, spec, report)
        rollout = open_rollout(here, submission, version, report)
        set_rollout(here.records, here.clock, submission.id, rollout.id, this_driver())
        warm = here.engines.state(version.id).phase is EnginePhase.READY
        request_engine(here, spec)
        if here.event_recorder is not None:
            here.event_recorder.mark(version.id, submission.request.endpoint, Role.CANDIDATE)
        state = await_ready(here, version.id, report)
        plan = str(plan_memory(version.needs, here.settings.models, here.engine_host))
        report.say(f"engine of {version.short} is ready; {plan}", address=state, plan=plan)
        if warm:
            report.reuse(f"engine of {version.short} runs already")
        return rollout


def await_capacity(here: Platform, submission: Submission, spec: EngineSpec, report: StepReport) -> None:
    """Wait until the candidate's engine fits on the cluster, before it is created. Refused with the numbers if it does not."""
    if here.capacity is not None:
        await_fit(
            here.capacity,
            spec,
            here.clock,
            queue_s=here.settings.kubernetes.queue_s,
            say=lambda why: report.progress(0.0, why),
            wanted=lambda: here.records.submissions.get(submission.id).state is not SubmissionState.CANCELLING,
        )


def open_rollout(here: Platform, submission: Submission, version: ModelVersion, report: StepReport) -> Rollout:
    """Open the dark rollout, or return the one that an earlier run opened.

    An older submission's rollout on the endpoint is withdrawn first and waited for. Refused when a newer submission has the endpoint.
    """
    if submission.rollout is not None:
        still_wanted(here, submission.rollout)
        return here.records.rollouts.get(submission.rollout)
    while True:
        stop_if_cancelled(here, submission.id)
        try:
            return here.driver.open(submission.id, submission.request.endpoint, version.id)
        except Conflict as error:
            report.progress(0.0, f"waiting: {error.what}")
            here.clock.wait(here.settings.rollout.pass_interval_s)


def engine_spec(here: Platform, version: ModelVersion) -> EngineSpec:
    """Return the immutable spec of a version's engine."""
    plan = plan_memory(version.needs, here.settings.models, here.engine_host)
    return EngineSpec(
        version=version.id,
        model_uri=here.weights.reclaim(Digest(version.id)).uri,
        tensors_uri=here.weights.reclaim(version.tensors).uri,
        tensors_manifest=version.tensors_manifest,
        max_model_len=plan.max_model_len,
        dtype=plan.dtype,
        memory_bytes=here.settings.models.engine_memory_bytes,
        weights_bytes=version.needs.weights_bytes,
        attention_heads=version.needs.attention_heads,
        cache_bytes=plan.cache_bytes,
        concurrency=plan.concurrency,
    )


def request_engine(here: Platform, spec: EngineSpec) -> None:
    """Apply a spec. An engine that runs from an earlier spec (other settings, another release) keeps the one of its trials."""
    try:
        here.engines.apply(spec)
    except Conflict as error:
        if error.reason == ANOTHERS or here.engines.state(spec.version).phase is not EnginePhase.READY:
            raise


def await_ready(here: Platform, version: VersionId, report: StepReport | None = None) -> str:
    """Wait for a requested engine, activating it if it is scaled to zero, and return its address.

    Refused with the cause if it cannot start. Transient if the engine was stopped meanwhile: the step is tried again.
    """
    limit_s = longest_start_s(here)
    limit = here.clock.monotonic() + limit_s
    for look in itertools.count():
        state = here.engines.state(version)
        if state.phase is EnginePhase.READY and state.address:
            return state.address
        if state.phase is EnginePhase.FAILED:
            raise Refused(f"the engine of {version[:12]} does not start: {state.detail}", reason="engine_failed", hint=hint_for(state))
        if state.phase in {EnginePhase.ABSENT, EnginePhase.STOPPING}:
            raise Transient(f"the engine of {version[:12]} was stopped while it was waited for")
        if here.clock.monotonic() > limit:
            raise Refused(
                f"the engine of {version[:12]} was not ready after {limit_s:.0f} s: {state.detail}",
                reason="engine_start_timeout",
                hint=hint_for(state),
            )
        if here.activator is not None and look % _ACTIVATE_EVERY == 0:
            here.activator.activate(version)
        if report is not None:
            report.progress(0.0, state.detail)
        here.clock.wait(_LOOK_S)
    raise AssertionError("unreachable")


def hint_for(state: EngineState) -> str:
    """Return what to do about an engine that does not come up, by its cause."""
    cause = state.cause or EngineCause.UNKNOWN
    return _HINTS_OF_CAUSES.get(cause) or _HINTS[cause.responsible]


def longest_start_s(here: Platform) -> float:
    """Return how long to wait for an engine, in seconds: on a cluster also for a node and the image, whose limits the adapter enforces.

    Adding a node to a cluster and pulling an image do not count towards the model's own limit.
    """
    policy = here.settings.kubernetes
    elsewhere_s = policy.queue_s + policy.pull_limit_s if here.capacity is not None else 0.0
    return here.settings.models.engine_start_limit_s + elsewhere_s


def still_wanted(here: Platform, rollout: RolloutId) -> None:
    """Raise Refused when the rollout was taken back under us: by its verdict, an operator, a newer submission or its deadline."""
    row = here.records.rollouts.get(rollout)
    if row.state in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, RolloutState.CANCELLED}:
        raise taken_back(row)


def taken_back(row: Rollout) -> Refused:
    """Return how a rollout that was not promoted ends its submission: withdrawn when no user had met the candidate or a newer one came."""
    if row.withdrawal is Withdrawal.SUPERSEDED:
        return superseded(row.reason)
    if row.step == 0:
        return Refused(f"the rollout was withdrawn: {row.reason}", reason="withdrawn", hint="submit again when it is still wanted")
    return Refused(f"rolled back: {row.reason}", reason="rolled_back", hint="see `seatrial rollouts` for the numbers")
