"""Votes and comments on completions."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from core.access import Caller
from core.conversations import Assignment, Completion, Feedback, Thumb
from core.ids import CompletionId
from core.ports import Assignments, Clock, Ledger
from core.reasons import Reason
from serving.gateway.metrics import short
from serving.gateway.requests import parse_json
from serving.gateway.responses import Rejected, Response, json_response

LONGEST_COMMENT = 2000
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FIELDS = frozenset({"completion_id", "id", "thumb", "comment"})


@dataclass(frozen=True, slots=True)
class Vote:
    """A client's feedback on a completion."""

    completion: CompletionId
    thumb: Thumb | None
    comment: str


def parse_vote(body: bytes) -> Vote:
    """Return the vote in `body`. Rejected (400) names the invalid field."""
    document = parse_json(body)
    if unknown := sorted(document.keys() - _FIELDS):
        raise _invalid(unknown[0][:64], "is not known", f"the fields are {', '.join(sorted(_FIELDS))}")
    given = document.get("completion_id", document.get("id"))
    if not isinstance(given, str) or not _ID.fullmatch(given):
        raise _invalid("completion_id", "is not a completion id", "send the `id` of the answer")
    thumb, comment = _thumb(document.get("thumb")), _comment(document.get("comment"))
    if thumb is None and not comment:
        raise _invalid("thumb", "is missing, and so is `comment`", "send one of them or both")
    return Vote(CompletionId(given), thumb, comment)


def _thumb(given: Any) -> Thumb | None:
    if given is None:
        return None
    if given not in ("up", "down"):
        raise _invalid("thumb", "is neither", 'it must be "up", "down" or null')
    return Thumb(given)


def _comment(given: Any) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or len(given) > LONGEST_COMMENT:
        raise _invalid("comment", "is too long or no text", f"it must be a string of at most {LONGEST_COMMENT} characters")
    if "\0" in given or any("\ud800" <= letter <= "\udfff" for letter in given):
        raise _invalid("comment", "holds a character that cannot be stored", "leave out NUL and lone surrogates")
    return given.strip()


def _invalid(field: str, what: str, hint: str) -> Rejected:
    return Rejected(400, f"`{field}` {what}", reason=Reason.INVALID_VALUE, param=field, hint=hint)


async def store_feedback(vote: Vote, caller: Caller, ledger: Ledger, assignments: Assignments, clock: Clock) -> Response:
    """Store the vote and return it. Rejected (404) equally for an unknown completion and for one of another principal."""
    completion = await asyncio.to_thread(ledger.find, vote.completion)
    if completion is None or completion.principal != caller.principal:
        raise Rejected(
            404,
            f"completion {vote.completion} is not known",
            reason=Reason.COMPLETION_NOT_FOUND,
            param="completion_id",
            hint="send the `id` of an answer that a key of yours received",
        )
    feedback = Feedback(
        completion=completion.id, principal=caller.principal, thumb=vote.thumb, comment=vote.comment, at=clock.now(),
        endpoint=completion.endpoint, version=completion.version, conversation=completion.conversation,
        counted=not await _moved(completion, assignments, clock.now()),
    )  # fmt: skip
    await asyncio.to_thread(ledger.vote, feedback)
    return json_response(_document(feedback))


async def _moved(completion: Completion, assignments: Assignments, now: float) -> bool:
    """Whether the conversation had two versions. False for a conversation without an assignment in memory."""
    if not await assignments.known(completion.conversation):
        return False
    proposal = Assignment(
        completion.conversation, completion.endpoint, completion.version, completion.rollout, candidate=False, share=0.0, assigned_at=now
    )
    current = await assignments.place(proposal, now)
    return current.moved or current.version != completion.version


def _document(feedback: Feedback) -> dict[str, object]:
    return {
        "object": "feedback",
        "completion_id": feedback.completion,
        "endpoint": feedback.endpoint,
        "version": short(feedback.version),
        "thumb": None if feedback.thumb is None else feedback.thumb.value,
        "comment": feedback.comment,
        "counted": feedback.counted,
        "at": feedback.at,
    }
