"""Garbage collection: what the platform stores and no longer needs, why each thing is kept, and the removal.

Each kind has a plan (`Found` per stored thing, with the reason) and a removal that checks again. Weights are removed in two steps
with a grace period between them; see `core/ports/weights.py` for the race with a submission that reuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog

from core.benchmarks import Benchmark, BenchmarkState
from core.endpoints import OPEN_ROLLOUTS, RolloutState
from core.errors import NotFound
from core.ids import BenchmarkId, Digest, Epoch, VersionId
from core.submissions import SubmissionState
from core.versions import ModelVersion
from registry.answers import Answers
from registry.work import Work
from serving.engines.files import Retired, retired
from tasks.service import Fence
from wiring import Platform

log = structlog.get_logger(__name__)

DAY_S = 86_400.0
_ALL = 1_000_000
_OPEN = tuple(state for state in SubmissionState if not state.ended)


class Action(StrEnum):
    """What happens to a stored thing."""

    KEEP = "keep"
    WITHDRAW = "withdraw"
    """Weights only: hidden now, deleted after the grace period."""
    TAKE_BACK = "take back"
    """Weights only: withdrawn, and needed again."""
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Found:
    """One stored thing: its kind and name, its size, what happens to it and why."""

    kind: str
    name: str
    bytes: int
    action: Action
    why: str


Plan = Callable[[Platform], Iterator[Found]]
Apply = Callable[[Platform, Found], bool]
"""Removes one thing after checking again. Returns whether it was removed."""


def collect(here: Platform, kind: str, fence: Fence) -> Iterator[Found]:
    """Remove what no longer is needed of one kind and yield what was done. Errors: Transient, Fault, Conflict (the lease is lost)."""
    plan, apply = KINDS[kind]
    for found in tuple(plan(here)):
        if found.action is Action.KEEP:
            continue
        fence()
        if apply(here, found):
            yield found


# -- weights


def needed_versions(here: Platform) -> Mapping[VersionId, str]:
    """Return every version whose weights are needed whatever their age, with the reason."""
    needed: dict[VersionId, str] = {}
    for version, why in _needs(here):
        if version is not None:
            needed.setdefault(version, why)
    return needed


def _needs(here: Platform) -> Iterator[tuple[VersionId | None, str]]:
    """Yield who needs what, submissions before endpoints: a version that is promoted while we read is seen in one of them."""
    records = here.records
    for row in records.submissions.find(states=_OPEN, limit=_ALL):
        yield (row.version, f"{row.id} is under way")
    for rollout in records.rollouts.find(states=OPEN_ROLLOUTS, limit=_ALL):
        yield (rollout.candidate, f"{rollout.id} tries it")
        yield (rollout.stable, f"{rollout.id} may go back to it")
    for run in records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=_ALL):
        yield (run.version, f"{run.id} asks it")
    for endpoint in records.endpoints.list():
        yield (endpoint.stable, f"{endpoint.name} serves it")
        yield (endpoint.candidate, f"{endpoint.name} tries it")
        yield (endpoint.previous, f"{endpoint.name} may go back to it")
        promoted = records.rollouts.find(
            endpoint=endpoint.name, states=[RolloutState.PROMOTED], limit=max(2, here.settings.retention.versions)
        )
        for rollout in promoted:
            yield (rollout.candidate, f"one of the last versions of {endpoint.name}")
    for engine in here.engines.list():
        yield (engine.version, "an engine of it is there")


def plan_weights(here: Platform) -> Iterator[Found]:
    """Yield every bundle and leftover of the weights store."""
    mine = here.records.installation.id()
    owner = here.weights.claim(mine)
    if owner != mine:
        why = f"the store belongs to installation {owner[:8]}, this one is {mine[:8]}: `seatrial gc --take-over` when that one has ended"
        for bundle in here.weights.list():
            yield Found("weights", bundle.digest, sum(file.size for file in bundle.files), Action.KEEP, why)
        return
    policy, now = here.settings.retention, here.clock.now()
    owners, used = _owners(here), _last_uses(here)
    reasons = _reasons(here, owners, used)
    for bundle in here.weights.list():
        size = sum(file.size for file in bundle.files)
        why = reasons.get(bundle.digest, "")
        if not why and bundle.created_at > now - policy.grace_hours * 3600:
            why = "stored within the grace period"
        action = Action.KEEP if why else Action.WITHDRAW
        yield Found("weights", bundle.digest, size, action, why or _unneeded(owners.get(bundle.digest, ()), used, now))
    for left in here.weights.leftovers():
        if left.digest in reasons:
            yield Found("weights", left.digest, left.bytes, Action.TAKE_BACK, reasons[left.digest])
        elif left.since > now - policy.grace_hours * 3600:
            why = f"withdrawn {(now - left.since) / 3600:.1f} hours ago, grace {policy.grace_hours:g}"
            yield Found("weights", left.digest, left.bytes, Action.KEEP, why)
        else:
            yield Found("weights", left.digest, left.bytes, Action.DELETE, "withdrawn, and the grace period is over")


def _reasons(here: Platform, owners: Mapping[Digest, tuple[ModelVersion, ...]], used: Mapping[VersionId, Epoch]) -> Mapping[Digest, str]:
    """Return why each digest is kept; one that is missing is not needed."""
    needed, now, days = needed_versions(here), here.clock.now(), here.settings.retention.weights_days
    reasons: dict[Digest, str] = {}
    for digest, versions in owners.items():
        if why := next((needed[version.id] for version in versions if version.id in needed), ""):
            reasons[digest] = why
        elif recent := next((version for version in versions if used[version.id] > now - days * DAY_S), None):
            reasons[digest] = f"used {_days(now - used[recent.id])} days ago, limit {days:g}"
    return reasons


def apply_weights(here: Platform, found: Found) -> bool:
    """Withdraw, take back, or delete one bundle. After a withdrawal the rows are read again: a reuse between the two is undone here."""
    digest = Digest(found.name)
    if found.action is Action.DELETE:
        return here.weights.purge(digest, here.clock.now() - here.settings.retention.grace_hours * 3600)
    if found.action is Action.TAKE_BACK:
        try:
            here.weights.reclaim(digest)
        except NotFound as error:
            log.warning("weights.lost", digest=digest[:12], cause=error.what)
            return False
        return True
    withdrawn = here.weights.withdraw(digest)
    needed = needed_versions(here)
    if any(version.id in needed for version in _owners(here).get(digest, ())):
        here.weights.reclaim(digest)
        return False
    return withdrawn


def _owners(here: Platform) -> dict[Digest, tuple[ModelVersion, ...]]:
    """Return the versions that rest on each bundle: a version's own files, and tensors that several versions may share."""
    owners: dict[Digest, tuple[ModelVersion, ...]] = {}
    for version in here.records.versions.find(limit=_ALL):
        for digest in (Digest(version.id), version.tensors):
            owners[digest] = (*owners.get(digest, ()), version)
    return owners


def _last_uses(here: Platform) -> Mapping[VersionId, Epoch]:
    used: dict[VersionId, Epoch] = {}

    def use(version: VersionId | None, at: Epoch | None) -> None:
        if version is not None and at is not None:
            used[version] = max(used.get(version, 0.0), at)

    for version in here.records.versions.find(limit=_ALL):
        use(version.id, version.created_at)
    for submission in here.records.submissions.find(limit=_ALL):
        use(submission.version, submission.updated_at)
    for rollout in here.records.rollouts.find(limit=_ALL):
        use(rollout.candidate, rollout.ended_at or rollout.started_at)
        use(rollout.stable, rollout.ended_at or rollout.started_at)
    for run in here.records.benchmarks.find(limit=_ALL):
        use(run.version, run.ended_at or run.started_at)
    return used


def _unneeded(versions: tuple[ModelVersion, ...], used: Mapping[VersionId, Epoch], now: Epoch) -> str:
    if not versions:
        return "no version rests on it"
    return f"last used {_days(now - max(used[version.id] for version in versions))} days ago"


# -- work under way: downloads and scratch


def _work(here: Platform) -> Work:
    return Work(here.settings.downloads, here.settings.scratch)


def plan_work(here: Platform) -> Iterator[Found]:
    """Yield every download and scratch folder."""
    days, now = here.settings.retention.work_days, here.clock.now()
    for item in _work(here).items():
        age = _days(now - item.written_at)
        old = item.written_at < now - days * DAY_S
        yield Found("work", item.name, item.bytes, Action.DELETE if old else Action.KEEP, f"last written {age} days ago, limit {days:g}")


def apply_work(here: Platform, found: Found) -> bool:
    """Delete one, unless a process holds it or has written to it since."""
    return _work(here).remove(found.name, before=here.clock.now() - here.settings.retention.work_days * DAY_S)


# -- answers of benchmarks on this machine


def plan_answers(here: Platform) -> Iterator[Found]:
    """Yield the answers of every benchmark that lie on this machine."""
    rows = {row.id: row for row in here.records.benchmarks.find(limit=_ALL)}
    for benchmark, files in here.answers.files().items():
        action, why = _verdict_on_answers(here, rows.get(benchmark), max(path.stat().st_mtime for path in files))
        yield Found("answers", benchmark, sum(path.stat().st_size for path in files), action, why)


def _verdict_on_answers(here: Platform, row: Benchmark | None, written_at: Epoch) -> tuple[Action, str]:
    policy, now = here.settings.retention, here.clock.now()
    ended = (row.ended_at if row else None) or written_at
    age = f"{_days(now - ended)} days old"
    if row is not None and not row.ended:
        return Action.KEEP, "it is running"
    if row is not None and row.rows_uri and ended < now - policy.answers_days * DAY_S:
        return Action.DELETE, f"{age}, and MLflow has them"
    if ended < now - policy.benchmarks_days * DAY_S or (row is None and ended < now - policy.answers_days * DAY_S):
        return Action.DELETE, age
    return Action.KEEP, f"{age}, limit {policy.answers_days if row and row.rows_uri else policy.benchmarks_days:g} days"


def apply_answers(here: Platform, found: Found) -> bool:
    """Delete one benchmark's answers from this machine."""
    answers: Answers = here.answers
    return answers.forget(BenchmarkId(found.name))


# -- benchmarks: their rows, and their runs in MLflow


def plan_benchmarks(here: Platform) -> Iterator[Found]:
    """Yield every ended benchmark that is past its age."""
    policy, now = here.settings.retention, here.clock.now()
    rows = here.records.benchmarks.find(limit=_ALL)
    kept = _baselines(rows, frozenset(needed_versions(here)))
    for row in rows:
        age_s = now - (row.ended_at or row.started_at)
        if not row.ended or age_s < policy.benchmarks_days * DAY_S:
            continue
        why = "a baseline of a version in use" if row.id in kept else f"{_days(age_s)} days old, limit {policy.benchmarks_days:g}"
        yield Found("benchmarks", row.id, 0, Action.KEEP if row.id in kept else Action.DELETE, why)


def _baselines(rows: tuple[Benchmark, ...], needed: frozenset[VersionId]) -> frozenset[BenchmarkId]:
    """Return the runs that later runs are compared with: the first and the newest whole run of each plan on a version in use."""
    found: dict[tuple[str, str], list[Benchmark]] = {}
    for row in rows:
        if row.version in needed and row.state is BenchmarkState.DONE:
            found.setdefault((row.version, row.plan.key), []).append(row)
    ends = (run for runs in found.values() for run in (min(runs, key=_started), max(runs, key=_started)))
    return frozenset(run.id for run in ends)


def _started(row: Benchmark) -> Epoch:
    return row.started_at


def apply_benchmarks(here: Platform, found: Found) -> bool:
    """Delete a benchmark's MLflow run, its answers and then its row: what is cut off between them is finished by the next pass."""
    row = here.records.benchmarks.get(BenchmarkId(found.name))
    here.history.forget(row)
    here.answers.forget(row.id)
    here.records.benchmarks.remove(row.id)
    return True


# -- stopped engines


def _retired(here: Platform) -> tuple[Retired, ...]:
    return retired(here.settings.engines)


def plan_engines(here: Platform) -> Iterator[Found]:
    """Yield the folder of every engine that is neither wanted nor running: what is left is its log."""
    days, now = here.settings.retention.engine_logs_days, here.clock.now()
    for engine in _retired(here):
        old = engine.written_at < now - days * DAY_S
        why = f"stopped, log written {_days(now - engine.written_at)} days ago, limit {days:g}"
        yield Found("engines", engine.version, engine.bytes, Action.DELETE if old else Action.KEEP, why)


def apply_engines(here: Platform, found: Found) -> bool:
    """Delete one folder, unless the engine is wanted again."""
    engine = next((engine for engine in _retired(here) if engine.version == found.name), None)
    return engine is not None and engine.remove()


KINDS: Mapping[str, tuple[Plan, Apply]] = {
    "weights": (plan_weights, apply_weights),
    "work": (plan_work, apply_work),
    "answers": (plan_answers, apply_answers),
    "benchmarks": (plan_benchmarks, apply_benchmarks),
    "engines": (plan_engines, apply_engines),
}
"""Every kind of stored thing, in the order in which they are collected."""


def _days(seconds: float) -> str:
    return f"{seconds / DAY_S:.1f}"
