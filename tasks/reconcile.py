"""The parts of a reconcile pass: start submissions without a run, take over abandoned work, bring engines to what the rows want.

`reconcile_duty` is what the service (`tasks/service.py`) runs each minute, at once when somebody called for a pass, and within
seconds when the watchdog (`Recovery.left_alone`) sees work without a driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import structlog

from core.benchmarks import BenchmarkState
from core.endpoints import OPEN_ROLLOUTS, Withdrawal
from core.engines import Role
from core.errors import Conflict, Fault, NotFound, SeatrialError, Transient
from core.ids import VersionId
from core.leases import RECONCILE
from core.reasons import Reason
from core.settings import Settings
from lifecycle.bundles import bundles_in_use
from lifecycle.engines import retire_unwanted, wanted_versions
from lifecycle.rollouts.driver import driven_by_another
from lifecycle.stale_leases import StaleLeases
from lifecycle.studies import start_missing
from lifecycle.submissions import OPEN
from tasks.benchmarks import record_missing
from tasks.prepare import model_import
from tasks.recovery import recovery
from tasks.service import Duty, Fence, Part
from tasks.start import engine_spec
from wiring import Platform

log = structlog.get_logger(__name__)

_REMOVED_S = 86_400.0
"""Seconds after an endpoint's removal in which MLflow and the cluster are updated: they may be unavailable at first."""
_MOST_AWAY = 3
"""So many engines that are out of reach in one pass mean that the cluster is: the rest would only wait for it too."""
_TOLD = 5
"""Troubles that a pass tells by name; the log has all."""


def resume_submissions(here: Platform, fence: Fence) -> tuple[str, ...]:
    """Start a run for every open submission without a driver; end those that were cancelled."""
    found, resumed = recovery(here), []
    for row in found.abandoned_submissions():
        fence()
        if found.resume_submission(row):
            resumed.append(f"resumed {row.id}")
    return tuple(resumed)


def resume_benchmarks(here: Platform, fence: Fence) -> tuple[str, ...]:
    """Start a run for every benchmark without a driver, and enter in MLflow those that ended while it was unavailable."""
    found, resumed = recovery(here), []
    for row in found.abandoned_benchmarks():
        fence()
        if found.resume_benchmark(row):
            resumed.append(f"resumed {row.id}")
    return (*resumed, *(f"entered {benchmark} in MLflow" for benchmark in record_missing(here.records, here.answers, here.clock)))


def start_studies(here: Platform, fence: Fence) -> tuple[str, ...]:
    """Start the run of every sampling study that was noted while Prefect was unavailable, or by a process that was killed."""
    return tuple(f"started {study}" for study in start_missing(here.records, here.runs, here.clock, fence))


def drive_rollouts(here: Platform, fence: Fence) -> tuple[str, ...]:
    """Make one pass over every open rollout without a living driver. One whose submission has ended is withdrawn."""
    now = here.clock.now()
    left = [row for row in here.records.rollouts.find(states=OPEN_ROLLOUTS, limit=1000) if not driven_by_another(row, "reconcile", now)]
    changes = []
    for row in left:
        fence()
        if here.records.submissions.get(row.submission).state.ended:
            here.driver.withdraw(row.id, "its submission has ended", Withdrawal.SUBMISSION_ENDED)
        after = here.driver.advance(row.id)
        if (after.state, after.share) != (row.state, row.share):
            changes.append(f"{row.id} is {after.state}, share {after.share:.0%}")
    return tuple(changes)


def keep_engines(here: Platform, fence: Fence) -> tuple[str, ...]:
    """Apply the engine of every version that serves or is tried, and stop those that no row needs.

    A failure of one engine does not stop the others; the part fails at its end and names all of them. Errors: Transient, Fault.
    """
    troubles: dict[VersionId, SeatrialError] = {}
    wanted = wanted_versions(here.records)
    for version in wanted:
        fence()
        error = keep_engine(here, version)
        if error is not None:
            log.warning("engine.not_kept", version=version[:12], error=str(error))
            troubles[version] = error
        if sum(isinstance(each, Transient) for each in troubles.values()) >= _MOST_AWAY:
            raise in_one(troubles)
    mark_engines(here, wanted)
    stopped = retire_unwanted(here.records, here.engines, here.clock, drain_s=here.settings.rollout.drain_s)
    if troubles:
        raise in_one(troubles)
    return tuple(f"stopped the engine of {version[:12]}" for version in stopped)


def keep_engine(here: Platform, version: VersionId) -> SeatrialError | None:
    """Request a version's engine and return the error, if any."""
    try:
        here.engines.apply(engine_spec(here, here.records.versions.get(version)))
    except NotFound:
        return None  # a dark candidate that is not staged yet: its own run applies it
    except Conflict as error:
        if error.reason is Reason.ENGINE_OF_ANOTHER:
            return error
        return None  # made under other settings: it keeps the settings of its trials until it is submitted again
    except SeatrialError as error:
        return error
    return None


def in_one(troubles: Mapping[VersionId, SeatrialError]) -> SeatrialError:
    """Return one error for the errors of several engines: Transient when every one is Transient, else Fault."""
    told = [f"{version[:12]}: {error}" for version, error in list(troubles.items())[:_TOLD]]
    more = f"; and {len(troubles) - _TOLD} more, see the log" if len(troubles) > _TOLD else ""
    what = f"not kept: {'; '.join(told)}{more}"
    return Transient(what) if all(isinstance(error, Transient) for error in troubles.values()) else Fault(what)


def sweep_leftovers(here: Platform, _fence: Fence) -> tuple[str, ...]:
    """Remove staged weights that no open submission needs, and downloads and scratch when nothing is under way."""
    submissions = here.records.submissions.find(states=OPEN, limit=1)
    under_way = submissions or here.records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=1)
    if not under_way and not here.records.versions.find(limit=1):
        return ()  # a new database beside a store that may be another one's
    if not under_way:
        model_import().clear_work()
    return tuple(f"removed the staged weights {digest[:12]}" for digest in model_import().sweep(partial(bundles_in_use, here.records)))


def mark_catalogue(here: Platform, _fence: Fence) -> tuple[str, ...]:
    """Bring MLflow's aliases to what the rows say."""
    for endpoint in here.records.endpoints.list():
        try:
            here.models.mark(endpoint.name, champion=endpoint.stable, challenger=endpoint.candidate)
        except NotFound:
            continue  # not registered yet
    for name in here.records.endpoints.removed(here.clock.now() - _REMOVED_S):
        try:
            here.models.mark(name, champion=None, challenger=None)
        except NotFound:
            continue  # nothing of it was ever registered
    return ()


PARTS: tuple[tuple[str, Part], ...] = (
    ("engines", keep_engines),
    ("rollouts", drive_rollouts),
    ("submissions", resume_submissions),
    ("benchmarks", resume_benchmarks),
    ("studies", start_studies),
    ("leftovers", sweep_leftovers),
    ("catalogue", mark_catalogue),
)


def mark_engines(here: Platform, wanted: Iterable[VersionId]) -> None:
    """Show the endpoint and the role of each engine beside it; showing them again changes nothing.

    A removed endpoint's mark is taken from the engines of `wanted`, which are kept for others.
    """
    recorder = here.event_recorder
    for endpoint in here.records.endpoints.list():
        if endpoint.candidate is not None:
            recorder.mark(endpoint.candidate, endpoint.name, Role.CANDIDATE)
        if endpoint.stable is not None:
            recorder.mark(endpoint.stable, endpoint.name, Role.STABLE)
    for name in here.records.endpoints.removed(here.clock.now() - _REMOVED_S):
        for version in wanted:
            recorder.mark(version, name, None)


def reconcile_duty(settings: Settings) -> Duty:
    """Return the reconcile service's duty. Its watchdog looks for work without a driver each quarter of a lease."""
    stale = StaleLeases(settings.lease_s)
    parts: tuple[tuple[str, Part], ...] = (("leases", lambda here, fence: stale.end(here.records, here.clock, fence)), *PARTS)
    return Duty(
        RECONCILE, settings.reconcile_s, parts, early=lambda here, now: recovery(here).left_alone(now), early_every_s=settings.lease_s / 4
    )
