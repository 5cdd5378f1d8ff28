"""Endpoints, rollouts, verdicts, and the routes that a gateway follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from core.access import Caller
from core.errors import Refused
from core.ids import ConversationId, EndpointName, Epoch, RolloutId, SubmissionId, VersionId
from core.reasons import Reason
from core.versions import Decision

MOST_BEST_OF = 16


class OnRegression(StrEnum):
    """What a scheduled benchmark that finds a regression does, beside telling everybody."""

    ALERT = "alert"
    ROLLBACK = "rollback"


class BestOf(StrEnum):
    """How one of several answers is chosen. None of them ever sees a hidden test. Endpoints know the first two, studies all."""

    RANDOM = "random"
    MEAN_LOGPROB = "mean_logprob"
    VOTING = "voting"


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """What an endpoint promises. Text of conversations is kept only where `keep_text_days` is above zero.

    Sampling defaults hold for requests that do not say otherwise; None leaves them to the engine. With `best_of` above 1 that many
    answers are drawn, and `policy` chooses the one that is sent. Both versions of a rollout are asked alike.
    """

    keep_text_days: int = 0
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    best_of: int = 1
    policy: BestOf = BestOf.RANDOM
    on_regression: OnRegression = OnRegression.ALERT

    def sampling(self) -> dict[str, float]:
        """Return the defaults that are set, by their names in OpenAI's API."""
        if self.temperature is None and self.top_p is None and self.frequency_penalty is None:  # most endpoints, at every request
            return {}
        named = {"temperature": self.temperature, "top_p": self.top_p, "frequency_penalty": self.frequency_penalty}
        return {name: value for name, value in named.items() if value is not None}

    def check(self) -> None:
        """Raise Refused when an endpoint cannot fulfil this policy. Call it before storing a policy."""
        _within("keep_text_days", self.keep_text_days, 0, 3660)
        _within("temperature", self.temperature, 0, 2)
        _within("top_p", self.top_p, 1e-6, 1)
        _within("frequency_penalty", self.frequency_penalty, -2, 2)
        _within("best_of", self.best_of, 1, MOST_BEST_OF)
        if self.policy is BestOf.VOTING:
            raise _no_policy(
                "an endpoint cannot choose by voting: that runs the answers on a problem's own examples, and live requests have none",
                "use mean_logprob; voting is for `seatrial bench study`",
            )
        if self.best_of > 1 and self.policy is BestOf.RANDOM:
            raise _no_policy(
                f"best of {self.best_of} chosen at random costs {self.best_of} answers without being better than one",
                "choose by mean_logprob, or set best_of to 1",
            )
        if self.best_of > 1 and self.temperature == 0:
            raise _no_policy(
                f"best of {self.best_of} at temperature 0: every answer would be the same", "set a temperature above 0, or best_of to 1"
            )


def _within(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:  # NaN is in no range
        raise _no_policy(f"{name} {value:g} is out of range", f"it lies between {least:g} and {most:g}")


def _no_policy(what: str, hint: str) -> Refused:
    return Refused(what, reason=Reason.BAD_POLICY, hint=hint)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The public model name. `stable` is None until a first version was promoted; `candidate` only during a rollout."""

    name: EndpointName
    created_at: Epoch
    stable: VersionId | None = None
    previous: VersionId | None = None
    candidate: VersionId | None = None
    rollout: RolloutId | None = None
    policy: EndpointPolicy = field(default_factory=EndpointPolicy)


class RolloutState(StrEnum):
    """`dark` to `soaking` are on their way, `rolling_back` must end in `rolled_back`, the rest are ends."""

    DARK = "dark"
    SHIFTING = "shifting"
    SOAKING = "soaking"
    ROLLING_BACK = "rolling_back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this is an end state."""
        return self in {RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.CANCELLED}


OPEN_ROLLOUTS: Final = tuple(state for state in RolloutState if not state.ended)
"""The states of a rollout that has not ended."""


class Withdrawal(StrEnum):
    """Why a candidate was taken back."""

    VERDICT = "verdict"
    """Its conversations were worse than the stable version's."""
    DEADLINE = "deadline"
    SUPERSEDED = "superseded"
    """A newer submission to the same endpoint took its place."""
    OPERATOR = "operator"
    SUBMISSION_ENDED = "submission_ended"
    """Its submission was refused, failed or was cancelled."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """What one version did in the conversations of one rollout. Times in seconds, None without data.

    A conversation counts once: it is bad when any of its answers was a bad event. Moved conversations are in no cohort.
    """

    conversations: int = 0
    bad: int = 0
    completions: int = 0
    errors: int = 0
    slow: int = 0
    loops: int = 0
    nonsense: int = 0
    thumbs_up: int = 0
    thumbs_down: int = 0
    ttft_p95_s: float | None = None


class BadEvent(StrEnum):
    """The kinds of bad answers. A new kind is one line here and one in `registry/database/cohorts.py`; `lifecycle` and the bench follow."""

    ERROR = "error"
    SLOW = "slow"
    LOOP = "loop"
    NONSENSE = "nonsense"


EARLY_ANSWERS: Final = 3
"""The number of a conversation's answers, from its first, that the verdict reads."""


@dataclass(frozen=True, slots=True)
class ConversationOutcome:
    """One conversation as the verdict reads it, in order of its start. Answers are in the order of their ends.

    `share` is the probability with which it could have become the candidate's when it was assigned (0 < share <= 1).
    """

    conversation: ConversationId
    candidate: bool
    share: float
    started_at: Epoch
    answered: bool
    """Whether its first answer has ended, successfully or not."""
    first: frozenset[BadEvent] = frozenset()
    """The bad events of its first answer."""
    early: frozenset[BadEvent] = frozenset()
    """The bad events of its first `EARLY_ANSWERS` answers that ended within the verdict's window after its start."""
    thumbs_down: bool = False
    """Whether its first answer was voted down within that window."""
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Pass, fail or inconclusive, with the numbers that it rests on."""

    decision: Decision
    reason: str
    stable: Cohort = field(default_factory=Cohort)
    candidate: Cohort = field(default_factory=Cohort)
    e_value: float = 1.0
    """Evidence that the candidate is worse (bad answers); above 1/alpha it fails, at any time it is looked at."""
    thumbs_e_value: float = 1.0
    """The same of votes."""
    at: Epoch = 0.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One row is the truth. Every change compares `revision` and sets the next one (compare-and-set)."""

    id: RolloutId
    submission: SubmissionId
    endpoint: EndpointName
    candidate: VersionId
    stable: VersionId | None
    state: RolloutState
    step: int
    """Index into the policy's steps; 0 is dark."""
    share: float
    started_at: Epoch
    step_started_at: Epoch
    deadline: Epoch
    """After it the gateway itself sets the candidate's share to 0, even if other processes have died; the next pass rolls back."""
    revision: int = 0
    reason: str = ""
    """For people; `withdrawal` is for programs."""
    withdrawal: Withdrawal | None = None
    verdict: Verdict | None = None
    ended_at: Epoch | None = None
    lease_owner: str = ""
    lease_until: Epoch = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where one version answers. `address` is `http://host:port`, or None while no engine of it is ready."""

    version: VersionId
    address: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """How one endpoint's conversations are split. `salt` is the rollout id, so each rollout draws its own assignments."""

    endpoint: EndpointName
    stable: Target | None
    candidate: Target | None = None
    share: float = 0.0
    deadline: Epoch | None = None
    rollout: RolloutId | None = None
    policy: EndpointPolicy = field(default_factory=EndpointPolicy)

    def share_at(self, now: Epoch) -> float:
        """Return the candidate's share of new conversations at `now`: 0 past the deadline or without a candidate."""
        if self.candidate is None or (self.deadline is not None and now > self.deadline):
            return 0.0
        return self.share


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a gateway knows: routes by endpoint, callers by sha256 of their key. `generation` grows with every change."""

    generation: int
    routes: Mapping[EndpointName, Route]
    callers: Mapping[str, Caller]
