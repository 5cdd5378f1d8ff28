"""Routes of feedback: what users said of which answers."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from core.access import Caller, Role
from core.conversations import Feedback
from core.errors import Forbidden
from core.ids import EndpointName, VersionId
from core.reasons import Reason
from core.submissions import endpoint_name
from serving.control.context import ControlContext
from serving.control.dependencies import AnyCaller, Context, visible_submission
from serving.control.errors import RESPONSES
from serving.control.schemas.feedback import FeedbackView
from serving.control.schemas.parameters import After, IdQuery, Limit, NameQuery, epoch

_PAGE = 1000

routes = APIRouter(prefix="/v1/feedback", tags=["feedback"], responses=RESPONSES)


@routes.get("")
def find(
    context: Context,
    caller: AnyCaller,
    *,
    endpoint: NameQuery = None,
    submission: IdQuery = None,
    after: After = None,
    limit: Limit = 100,
) -> list[FeedbackView]:
    """List feedback that came after `after`, oldest first: an application's own, a submitter's versions', or all for an operator.

    To follow, ask again with the time of the last one.
    """
    name = endpoint_name(endpoint) if endpoint else None
    versions = _versions(context, caller, submission)
    policies = {known.name: known.policy.keep_text_days for known in context.records.endpoints.list()}
    found = []
    for feedback in _seen_by(context, caller, name, versions, epoch(after) or 0.0):
        found.append(FeedbackView.of(feedback, policies.get(feedback.endpoint, 0)))
        if len(found) == limit:
            break
    return found


def _versions(context: ControlContext, caller: Caller, submission: str | None) -> frozenset[VersionId] | None:
    """Return the versions whose feedback is asked for and may be seen; None for all."""
    if submission is not None:
        if caller.role is Role.APPLICATION:
            raise Forbidden(
                "an application's key sees no submissions", reason=Reason.ROLE, hint="leave `submission` out to see your own feedback"
            )
        version = visible_submission(context, caller, submission).version
        return frozenset({version} if version else ())
    if caller.role is Role.SUBMITTER:
        return context.versions_of(caller.principal)
    return None


def _seen_by(
    context: ControlContext, caller: Caller, endpoint: EndpointName | None, versions: frozenset[VersionId] | None, after: float
) -> Iterator[Feedback]:
    own_only = caller.role is Role.APPLICATION
    while True:
        page = context.records.conversations.feedback(endpoint=endpoint, versions=versions, after=after, limit=_PAGE)
        yield from (feedback for feedback in page if not own_only or feedback.principal == caller.principal)
        if len(page) < _PAGE or page[-1].at <= after:
            return
        after = page[-1].at
