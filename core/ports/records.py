"""The stored state, one repository per word. Adapter: SQLAlchemy, on SQLite and on PostgreSQL.

Every verb is one short transaction without any other network call inside it. Errors: NotFound, Conflict, Transient
(the database is unavailable or busy).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from core.access import Key, Principal, Role
from core.conversations import Assignment, Completion, Feedback, Usage
from core.endpoints import Cohort, ConversationOutcome, Endpoint, EndpointPolicy, Rollout, RolloutState, Snapshot
from core.ids import BenchmarkId, CompletionId, Digest, EndpointName, Epoch, KeyId, PrincipalId, RolloutId, SubmissionId, VersionId
from core.leases import Lease
from core.services import RunnerBeat
from core.submissions import Step, Submission, SubmissionRequest, SubmissionState
from core.versions import ModelVersion, TrialKind, TrialReport

if TYPE_CHECKING:  # core.benchmarks imports core.ports.sandbox, and so this package: either may come first
    from core.benchmarks import Benchmark, BenchmarkState, Trigger


class Submissions(Protocol):
    """Submissions and their steps."""

    def create(self, request: SubmissionRequest, submitter: PrincipalId, now: Epoch) -> Submission:
        """Enter a new one, queued. The same idempotency key of the same submitter returns the first one."""
        ...

    def get(self, submission: SubmissionId) -> Submission:
        """Return it with its steps in their order. NotFound."""
        ...

    def find(
        self,
        *,
        states: Iterable[SubmissionState] = (),
        endpoint: EndpointName | None = None,
        submitter: PrincipalId | None = None,
        limit: int = 100,
    ) -> tuple[Submission, ...]:
        """Return those that match, newest first, without their steps. Empty `states` means all."""
        ...

    def step(self, submission: SubmissionId, step: Step) -> None:
        """Enter a step or replace the one of its name."""
        ...

    def claim(self, submission: SubmissionId, driver: str, now: Epoch, until: Epoch) -> Submission:
        """Make the flow run `driver` the one that drives the submission until `until`; a queued one runs from now on.

        Decided and written at once. Conflict when it has ended, is being cancelled, or is driven by another run whose lease has not
        run out.
        """
        ...

    def change(
        self, submission: SubmissionId, now: Epoch, *, unless_ended: bool = True, held_by: str | None = None, **fields: Any
    ) -> Submission:
        """Set fields (state, version, rollout, reason, message, hint, flow_run, runs, lease_until) and return the new row.

        With `unless_ended` a change to an ended submission is not made and the row comes back as it is: an end state is never left.
        An end other than serving fails the steps that a killed or cancelled run left open.
        With `held_by` it is not made either, and Conflict is raised, when another flow run drives the submission by now.
        """
        ...


class Versions(Protocol):
    """Model versions and what trials said of them."""

    def put(self, version: ModelVersion) -> ModelVersion:
        """Enter a version; the same id again keeps the first row but fills `registered_uri` when that was None.

        Also remembers (source, commit) -> version, for `find`.
        """
        ...

    def get(self, version: VersionId) -> ModelVersion:
        """NotFound when unknown. A unique prefix of 8 or more characters is enough."""
        ...

    def find(self, *, source: str | None = None, commit: str | None = None, limit: int = 100) -> tuple[ModelVersion, ...]:
        """Return versions, newest first; by source and commit also those that were entered first under another source."""
        ...

    def report(self, report: TrialReport) -> None:
        """Keep a trial's report; (version, kind, key) again replaces it."""
        ...

    def reports(self, version: VersionId, kind: TrialKind | None = None, key: str | None = None) -> tuple[TrialReport, ...]:
        """Return reports, newest first."""
        ...


class Endpoints(Protocol):
    """Endpoints and what they serve."""

    def ensure(self, name: EndpointName, now: Epoch) -> Endpoint:
        """Return the endpoint, made when it is not there."""
        ...

    def get(self, name: EndpointName) -> Endpoint:
        """NotFound when unknown."""
        ...

    def list(self) -> tuple[Endpoint, ...]:
        """Return all by name."""
        ...

    def set_policy(self, name: EndpointName, policy: EndpointPolicy) -> Endpoint:
        """Set what the endpoint promises; the routes' generation grows. Refused as `EndpointPolicy.check` says, NotFound."""
        ...

    def remove(self, name: EndpointName, now: Epoch) -> Endpoint:
        """Take the endpoint out of the routes and return its last state. Its usage, votes, rollouts and benchmarks are kept.

        Conflict while a submission or a rollout of it is open, NotFound. `ensure` creates it again, with no version that serves.
        """
        ...

    def removed(self, since: Epoch) -> tuple[EndpointName, ...]:
        """Return the names of endpoints that were removed at or after `since` and not created again."""
        ...


class Rollouts(Protocol):
    """Rollouts: one row each, changed by compare-and-set. A change bumps the routes' generation in the same transaction."""

    def open(self, rollout: Rollout) -> Rollout:
        """Enter a rollout and make its candidate the endpoint's. The endpoint's open rollout of the same submission is returned instead.

        Another submission's open rollout on the endpoint: Conflict (the newer submission waits or the older is cancelled first).
        """
        ...

    def get(self, rollout: RolloutId) -> Rollout:
        """NotFound when unknown."""
        ...

    def find(self, *, endpoint: EndpointName | None = None, states: Iterable[RolloutState] = (), limit: int = 100) -> tuple[Rollout, ...]:
        """Return those that match, newest first."""
        ...

    def change(self, rollout: Rollout) -> Rollout:
        """Store `rollout` if the row's revision is still `rollout.revision`; return it with the next one. Conflict otherwise.

        To `promoted` it also makes the candidate the endpoint's stable (and stable the previous); any end clears the endpoint's
        candidate. All in one transaction. An end state is never left.
        """
        ...

    def cohorts(self, rollout: RolloutId) -> Cohorts:
        """Return what both versions did in the conversations that began while the candidate had a share, moved ones left out."""
        ...


@dataclass(frozen=True, slots=True)
class Cohorts:
    """The data of a verdict: totals per cohort, and conversations that have at least one ended answer in order of their start."""

    stable: Cohort
    candidate: Cohort
    outcomes: tuple[ConversationOutcome, ...]


class Conversations(Protocol):
    """What the ledger ships, and what is asked about it."""

    def record(self, assignments: Sequence[Assignment], completions: Sequence[Completion], feedback: Sequence[Feedback]) -> None:
        """Write a batch in one transaction.

        What is there already (by id) is kept, except that a settled completion replaces a `lost` one, a later vote of the same
        principal on the same completion replaces the earlier, and `moved` is never unset. Usage is added once per completion.
        """
        ...

    def completion(self, completion: CompletionId) -> Completion:
        """NotFound when unknown."""
        ...

    def assignments(self, since: Epoch, limit: int) -> tuple[Assignment, ...]:
        """Return assignments whose last request is not older than `since`, newest first."""
        ...

    def feedback(
        self,
        *,
        endpoint: EndpointName | None = None,
        versions: Iterable[VersionId] | None = None,
        after: Epoch = 0.0,
        limit: int = 100,
    ) -> tuple[Feedback, ...]:
        """Return feedback that came after `after`, oldest first. `versions=()` matches none, None all."""
        ...

    def leaderboard(self) -> tuple[Standing, ...]:
        """Return one row per (endpoint, version) that answered anything: completions, usage, votes."""
        ...

    def recent(self, since: Epoch) -> tuple[Recent, ...]:
        """Return one row per (endpoint, version) with completions that began at or after `since`, by both.

        Reads only conversations that had a request since, so it stays quick however much is stored. Lost completions are left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recent:
    """What one version answered lately. `errors` are those of the engine."""

    endpoint: EndpointName
    version: VersionId
    completions: int
    errors: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of the leaderboard before the benchmark's score joins it."""

    endpoint: EndpointName
    version: VersionId
    conversations: int
    completions: int
    usage: Usage
    thumbs_up: int
    thumbs_down: int
    loops: int
    errors: int


class Benchmarks(Protocol):
    """Benchmarks: one row per run of a plan on a version. The samples lie elsewhere (`rows_uri`)."""

    def create(self, benchmark: Benchmark) -> Benchmark:
        """Enter one. The same id again keeps the first row and returns it."""
        ...

    def get(self, benchmark: BenchmarkId) -> Benchmark:
        """NotFound when unknown."""
        ...

    def find(
        self,
        *,
        endpoint: EndpointName | None = None,
        version: VersionId | None = None,
        plan: Digest | None = None,
        states: Iterable[BenchmarkState] = (),
        trigger: Trigger | None = None,
        submission: SubmissionId | None = None,
        limit: int = 100,
    ) -> tuple[Benchmark, ...]:
        """Return those that match, newest first. `plan` is a plan's key; empty `states` means all."""
        ...

    def change(
        self, benchmark: BenchmarkId, now: Epoch, *, unless_ended: bool = True, held_by: str | None = None, **fields: Any
    ) -> Benchmark:
        """Set fields (all but id, version, trigger, started_at, endpoint, submission, asked_by) and return the new row. NotFound.

        With `unless_ended` a change to one that has ended is not made and the row comes back as it is: an end state is never left.
        With `held_by` it is not made either, and Conflict is raised, when another flow run drives it by now.
        """
        ...

    def remove(self, benchmark: BenchmarkId) -> None:
        """Delete the row of one that has ended. Conflict while it runs; removing what is gone does nothing."""
        ...


class Access(Protocol):
    """Principals and their keys."""

    def principal(self, name: str, now: Epoch) -> Principal:
        """Return the principal of this name, made when it is not there."""
        ...

    def add_key(self, key: Key) -> None:
        """Enter a key (its sha256, never its secret). Bumps the routes' generation."""
        ...

    def revoke(self, key: KeyId, now: Epoch) -> Key:
        """Revoke; revoking what is revoked changes nothing. NotFound."""
        ...

    def keys(self, *, principal: PrincipalId | None = None, role: Role | None = None) -> tuple[Key, ...]:
        """Return keys, newest first."""
        ...

    def by_secret(self, secret_sha256: str) -> Key | None:
        """Return the key with this digest, dead or alive, or None."""
        ...


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to which thing. Never prompts, never secrets."""

    at: Epoch
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class Audit(Protocol):
    """The trail that only grows."""

    def add(self, entry: AuditEntry) -> None:
        """Append."""
        ...

    def find(self, *, subject: str | None = None, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Return entries, newest first."""
        ...


class Gateways(Protocol):
    """What gateways follow, and whether they do."""

    def snapshot(self) -> Snapshot:
        """Return the routes and the callers with live keys. Every address is None; the adapter of `Routes` fills the addresses in."""
        ...

    def generation(self) -> int:
        """Return the routes' generation; cheap."""
        ...

    def report(self, gateway: str, generation: int, now: Epoch) -> None:
        """Note which generation a gateway follows."""
        ...

    def lagging(self, generation: int, since: Epoch) -> tuple[str, ...]:
        """Return the gateways that reported after `since` but follow an older generation."""
        ...


class Runners(Protocol):
    """Heartbeats of flow runners."""

    def beat(self, beat: RunnerBeat) -> None:
        """Keep a heartbeat; the host's next one replaces it."""
        ...

    def latest(self) -> RunnerBeat | None:
        """Return the newest heartbeat of all hosts, None where no runner has ever left one."""
        ...


class Leases(Protocol):
    """Background services of which one instance works at a time. Changes carry the token of the lease (`Lease.token`)."""

    def get(self, name: str) -> Lease | None:
        """Return the lease, None before anybody took or called it."""
        ...

    def take(self, name: str, holder: str, now: Epoch, until: Epoch) -> Lease | None:
        """Take a free lease, or renew one's own; None while another instance holds it. A new holder gets the next token."""
        ...

    def renew(self, lease: Lease, until: Epoch) -> Lease:
        """Extend it. Conflict when another instance took it."""
        ...

    def begin(self, lease: Lease, now: Epoch) -> Lease:
        """Write down that a pass begins. Conflict when another instance took the lease."""
        ...

    def end(self, lease: Lease, now: Epoch, failed: str) -> Lease:
        """Write down how a pass ended; `failed` is empty after a good one. Conflict when another instance took the lease."""
        ...

    def release(self, lease: Lease) -> None:
        """Let another instance take it at once. Does nothing when another holds it already."""
        ...

    def call(self, name: str, now: Epoch) -> None:
        """Request a pass: the holder of the lease makes one soon. Calls in quick succession lead to one pass."""
        ...


class Installation(Protocol):
    """The identity of the installation whose database this is."""

    def id(self) -> str:
        """Return the identity: 32 hex digits, the same for the life of the database. A restored home gets another one."""
        ...


class Records(Protocol):
    """All repositories of one database."""

    @property
    def submissions(self) -> Submissions: ...  # noqa: D102
    @property
    def versions(self) -> Versions: ...  # noqa: D102
    @property
    def endpoints(self) -> Endpoints: ...  # noqa: D102
    @property
    def rollouts(self) -> Rollouts: ...  # noqa: D102
    @property
    def conversations(self) -> Conversations: ...  # noqa: D102
    @property
    def benchmarks(self) -> Benchmarks: ...  # noqa: D102
    @property
    def access(self) -> Access: ...  # noqa: D102
    @property
    def audit(self) -> Audit: ...  # noqa: D102
    @property
    def gateways(self) -> Gateways: ...  # noqa: D102
    @property
    def runners(self) -> Runners: ...  # noqa: D102
    @property
    def leases(self) -> Leases: ...  # noqa: D102
    @property
    def installation(self) -> Installation: ...  # noqa: D102
