"""FastAPI dependencies of the routes: the control context, and the caller with the role that a route requires."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from core.access import Caller, Role, secret_digest
from core.errors import Forbidden, NotFound
from core.ids import SubmissionId
from core.reasons import Reason
from core.submissions import Submission
from serving.control.context import ControlContext
from serving.control.errors import Unauthenticated

_BEARER = HTTPBearer(auto_error=False, description="A key of this platform, as `seatrial keys create` showed it")


def _context(request: Request) -> ControlContext:
    context: ControlContext = request.app.state.context
    return context


Context = Annotated[ControlContext, Depends(_context)]


def caller_of(context: Context, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> Caller:
    """Return the sender of the request. Raises Unauthenticated."""
    if given is None:
        raise Unauthenticated("no key was sent", reason=Reason.NO_KEY, hint="send `Authorization: Bearer KEY`; an operator makes keys")
    key = context.records.access.by_secret(secret_digest(given.credentials))
    if key is None:
        raise Unauthenticated("this key is not known here", reason=Reason.UNKNOWN_KEY, hint="check it, or ask an operator for one")
    if not key.live(context.clock.now()):
        state = "was revoked" if key.revoked_at is not None else "has expired"
        raise Unauthenticated(f"key {key.id} {state}", reason=Reason.DEAD_KEY, hint="ask an operator for a new one")
    return Caller(key.id, key.principal, key.principal_name, key.role, frozenset(key.endpoints), key.expires_at)


def _allow(*roles: Role) -> Callable[[Caller], Caller]:
    def check(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
        if caller.role not in roles:
            needed = " or ".join(role.value for role in roles)
            raise Forbidden(
                f"key {caller.key} has the role {caller.role.value}, this needs {needed}",
                reason=Reason.ROLE,
                hint="use another key (--key or SEATRIAL_KEY), or ask an operator for one",
            )
        return caller

    return check


AnyCaller = Annotated[Caller, Depends(caller_of)]
Submitter = Annotated[Caller, Depends(_allow(Role.SUBMITTER, Role.OPERATOR))]
Operator = Annotated[Caller, Depends(_allow(Role.OPERATOR))]


def visible_submission(context: ControlContext, caller: Caller, submission_id: str) -> Submission:
    """Return a submission that the caller may see. NotFound, also for another submitter's: its existence is not disclosed."""
    found = context.records.submissions.get(SubmissionId(submission_id))
    if not caller.is_operator and found.submitter != caller.principal:
        raise NotFound(f"there is no submission {submission_id}", reason=Reason.NO_SUBMISSION, hint="`seatrial status` lists yours")
    return found
