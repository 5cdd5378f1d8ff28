"""Which submission wins an endpoint: the newest one, whichever is ready first."""

from __future__ import annotations

from collections.abc import Iterable

from core.endpoints import OPEN_ROLLOUTS, Endpoint, Rollout, RolloutState
from core.errors import Refused
from core.ids import SubmissionId
from core.ports import Records
from core.reasons import Reason
from core.submissions import Submission, SubmissionState

_HOLDING = (SubmissionState.RUNNING, SubmissionState.SERVING)


def superseded(what: str) -> Refused:
    """Return the error that ends a submission when a newer one takes its place; `what` names the newer one."""
    return Refused(what, reason=Reason.SUPERSEDED, hint="submit the model again if it is to be served")


def expect_newest(records: Records, submission: SubmissionId, endpoint: Endpoint) -> None:
    """Raise Refused (`superseded`) when a submission that was sent later has an open rollout on the endpoint or serves it.

    A later submission that is being cancelled, or whose version was replaced since, does not count.
    """
    mine = _age(records.submissions.get(submission))
    rollouts = records.rollouts.find(endpoint=endpoint.name, states=OPEN_ROLLOUTS)
    for row in records.submissions.find(endpoint=endpoint.name, states=_HOLDING):
        if _age(row) <= mine:
            return
        if _holds(row, endpoint, rollouts):
            raise superseded(f"superseded by {row.id}, which was submitted later")


def is_newer(records: Records, submission: SubmissionId, other: SubmissionId) -> bool:
    """Return whether `submission` was sent after `other`."""
    return _age(records.submissions.get(submission)) > _age(records.submissions.get(other))


def _holds(row: Submission, endpoint: Endpoint, rollouts: Iterable[Rollout]) -> bool:
    """Return whether a running or serving submission has the endpoint, or its place as the candidate.

    One that still runs with the version that is served ends as serving without a rollout.
    """
    if row.version is not None and row.version == endpoint.stable:
        return True
    return any(rollout.submission == row.id and rollout.state is not RolloutState.ROLLING_BACK for rollout in rollouts)


def _age(row: Submission) -> tuple[float, str]:
    """Return what orders submissions by when they were sent. Ids of one millisecond are ordered as well, the same for every process."""
    return row.created_at, row.id
