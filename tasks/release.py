"""The steps after the trials: publish, register, roll out, announce."""

from __future__ import annotations

from dataclasses import replace

from prefect.runtime import flow_run

from core.endpoints import Rollout, RolloutState
from core.engines import EnginePhase
from core.errors import NotFound
from core.ids import Digest, EndpointName
from core.ports import ModelRegistry
from core.ports.records import Endpoints, Submissions
from core.shown import model_title, number
from core.submissions import StepName, Submission
from core.versions import ModelVersion
from lifecycle.rollouts.withdrawn import withdrawn
from lifecycle.submissions import expect_open, serve
from tasks.conversations import bring_conversations, needs_conversations
from tasks.lease import end_despite_sigterm, this_driver
from tasks.notes import run_log
from tasks.pages import leave_pages, leave_rollout
from tasks.settle import settle_engines
from tasks.start import await_ready, engine_spec, engine_starts
from tasks.step import StepReport, recorded, step_task
from wiring import platform


def already_serving(submission: Submission, version: ModelVersion) -> bool:
    """Return whether the endpoint serves this version: submitted twice, or promoted by a run that was killed right after."""
    return platform().driver.serves(submission.id, submission.request.endpoint, version.id)


@step_task
def ensure_served(submission: Submission, version: ModelVersion) -> None:
    """Make sure that an engine answers for a version that the endpoint serves already: start it, or restart the failed one, and wait.

    Refused with the cause when it does not come up.
    """
    with recorded(submission.id, StepName.START) as report:
        here = platform()
        if here.engines.state(version.id).phase is EnginePhase.READY:
            report.reuse(f"{submission.request.endpoint} serves {version.short} already")
            return
        engine_starts(here).request_again(engine_spec(here, version))
        address = await_ready(here, version.id, report)
        report.say(f"engine of {version.short} was started again", address=address)


@step_task
def publish(submission: Submission, version: ModelVersion) -> None:
    """Make the staged weights permanent: the trials passed."""
    with recorded(submission.id, StepName.PUBLISH) as report:
        weights = platform().weights
        digests = (version.tensors, Digest(version.id))
        bundles = [weights.reclaim(digest) for digest in digests]  # garbage collection may have withdrawn either
        if all(bundle.published for bundle in bundles):
            report.reuse("these weights are published")
        for digest in digests:
            weights.publish(digest)
        report.say(f"weights {version.tensors[:12]}, version {version.short}")


@step_task
def register(submission: Submission, version: ModelVersion) -> None:
    """Enter the version in MLflow with its metrics, commit, digests, licence and the link back."""
    with recorded(submission.id, StepName.REGISTER) as report:
        here = platform()
        links = {
            "Prefect run": f"{here.prefect_page}/runs/flow-run/{flow_run.id}",
            "submission": f"seatrial status {submission.id}",
        }
        shown, reports = as_submitted(here.records.submissions, submission, version), here.records.versions.reports(version.id)
        entry = here.models.register(submission.request.endpoint, shown, reports, links, f"seatrial:/versions/{version.id}")
        here.records.versions.put(replace_uri(version, entry.uri))
        mark_aliases(here.records.endpoints, here.models, submission.request.endpoint)
        run_log().info("in MLflow: %s", entry.page)
        report.say(entry.uri, page=entry.page)


@step_task
def roll_out(submission: Submission, rollout: Rollout) -> Rollout:
    """Shift conversations to the candidate step by step until it is promoted; Refused when it was rolled back."""
    with recorded(submission.id, StepName.ROLL_OUT) as report:
        here = platform()
        row = here.records.rollouts.get(rollout.id)
        if not row.state.ended:  # another process may have ended it, and stopped its engine: there is nothing to wait for then
            await_ready(here, rollout.candidate)
            row = here.driver.begin(rollout.id)
        logged = None
        while not row.state.ended:
            show(report, row)
            if (row.state, row.share) != logged:
                logged = row.state, row.share
                run_log().info("roll out: %s", report.step.message)
            if needs_conversations(row, here.settings.rollout, here.clock.now()):
                bring_conversations(here.settings.gateway_url, here.synthetic_key, row)
            here.clock.wait(here.settings.rollout.pass_interval_s)
            expect_open(here.records, submission.id)
            row = here.driver.advance(rollout.id)
        here.driver.advance(rollout.id)  # an ended rollout's pass retires the engine that is no longer wanted
        show(report, row)
        leave_rollout(row, model_title(submission.request.model.source))
        if row.state is not RolloutState.PROMOTED:
            raise withdrawn(row)
        return row


@step_task
def announce(submission: Submission, version: ModelVersion) -> None:
    """Tell everybody: aliases, an audit entry, the link to chat."""
    with recorded(submission.id, StepName.ANNOUNCE, cancellable=False) as report:  # its users have the model already
        here = platform()
        endpoint = submission.request.endpoint
        settle_engines(here)
        mark_aliases(here.records.endpoints, here.models, endpoint)
        serve(here.records, here.clock, submission.id, f"{endpoint} serves {version.short}", this_driver())
        end_despite_sigterm()
        report.say(f"chat at {here.settings.shown_url}/v1 with model {endpoint!r}")
    leave_pages(here.records, here.links, submission.id)


def mark_aliases(endpoints: Endpoints, models: ModelRegistry, name: EndpointName) -> None:
    """Bring MLflow's `champion` and `challenger` to what the endpoint's row says."""
    endpoint = endpoints.get(name)
    try:
        models.mark(endpoint.name, champion=endpoint.stable, challenger=endpoint.candidate)
    except NotFound:
        return  # a version that is not registered yet; its own register step sets the aliases again


def as_submitted(submissions: Submissions, submission: Submission, version: ModelVersion) -> ModelVersion:
    """Return the version under the name that this submission gave it: the same weights may have come from another source first."""
    steps = submissions.get(submission.id).steps
    commit = next((step.detail.get("commit") for step in steps if step.name is StepName.RESOLVE), None)
    return replace(version, source=submission.request.model.source, commit=str(commit or version.commit))


def replace_uri(version: ModelVersion, uri: str) -> ModelVersion:
    """Return the version with its place in the model registry."""
    return replace(version, registered_uri=uri)


def show(report: StepReport, row: Rollout) -> None:
    """Show where the rollout stands, with the verdict's numbers."""
    verdict = row.verdict
    numbers = f"; {verdict.reason}; evidence {number(verdict.e_value)}" if verdict else ""
    report.say(f"{row.state}, share {row.share:.0%}{numbers}", rollout=row.id)
    report.progress(row.share, report.step.message)
