"""The data of a verdict: what both versions did in the conversations of one rollout.

A conversation is in a cohort when it was assigned while the candidate had a share, was not moved, and has at least one answer that counts.
An answer counts when it ended on its own (`ok`, `engine_error`) or was bad whatever its end: a loop, nonsense, or a first token that
took longer than the limit. What the client broke off or got wrong, and what a dead gateway lost, says nothing of a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, RowMapping, Select, and_, cast, func, or_, select

from core.conversations import Outcome, Thumb
from core.endpoints import Cohort, ConversationOutcome
from core.ids import RolloutId
from core.ports.records import Cohorts
from registry.database.tables import completions, conversations, feedback

_P95 = 0.95


def read_cohorts(connection: Connection, rollout: RolloutId, slow_ttft_s: float) -> Cohorts:
    """Return both cohorts and their conversations in order of their start."""
    rows = connection.execute(_per_conversation(rollout, slow_ttft_s)).mappings().all()
    thumbs = {(row["endpoint"], row["conversation"]): row for row in connection.execute(_per_vote(rollout)).mappings()}
    outcomes = tuple(_outcome(row, thumbs.get((row["endpoint"], row["id"]))) for row in rows)
    cohorts = []
    for candidate in (False, True):
        mine = [row for row in rows if bool(row["candidate"]) is candidate]
        votes = [thumbs[key] for row in mine if (key := (row["endpoint"], row["id"])) in thumbs]
        those = and_(_in_cohort(rollout), conversations.c.candidate.is_(candidate), _counts(slow_ttft_s))
        cohorts.append(_cohort(mine, votes, _p95(connection, those)))
    return Cohorts(stable=cohorts[0], candidate=cohorts[1], outcomes=outcomes)


def _per_conversation(rollout: RolloutId, slow_ttft_s: float) -> Select[Any]:
    own = conversations.c
    facts = (own.endpoint, own.id, own.candidate, own.share, own.synthetic, own.assigned_at)
    return (
        select(
            *facts,
            func.count().label("completions"),
            _times(completions.c.outcome == Outcome.ENGINE_ERROR).label("errors"),
            _times(_slow(slow_ttft_s)).label("slow"),
            _times(completions.c.looped).label("loops"),
            _times(completions.c.nonsense).label("nonsense"),
        )
        .join(completions, _its_answers())
        .where(_in_cohort(rollout), _counts(slow_ttft_s))
        .group_by(*facts)
        .order_by(own.assigned_at, own.endpoint, own.id)
    )


def _per_vote(rollout: RolloutId) -> Select[Any]:
    """Votes per conversation; a vote on another version's answer is not this cohort's."""
    its_votes = and_(
        feedback.c.endpoint == conversations.c.endpoint,
        feedback.c.conversation == conversations.c.id,
        feedback.c.version == conversations.c.version,
    )
    up = _times(feedback.c.thumb == Thumb.UP).label("up")
    down = _times(feedback.c.thumb == Thumb.DOWN).label("down")
    return (
        select(feedback.c.endpoint, feedback.c.conversation, up, down)
        .join(conversations, its_votes)
        .where(_in_cohort(rollout), feedback.c.counted)
        .group_by(feedback.c.endpoint, feedback.c.conversation)
    )


def _outcome(row: RowMapping, votes: RowMapping | None) -> ConversationOutcome:
    return ConversationOutcome(
        conversation=row["id"],
        candidate=bool(row["candidate"]),
        share=row["share"],
        bad=_is_bad(row),
        thumbs_down=votes is not None and votes["down"] > 0,
        synthetic=bool(row["synthetic"]),
    )


def _cohort(mine: Sequence[RowMapping], votes: Sequence[RowMapping], ttft_p95_s: float | None) -> Cohort:
    return Cohort(
        conversations=len(mine),
        bad=sum(_is_bad(row) for row in mine),
        completions=sum(row["completions"] for row in mine),
        errors=sum(row["errors"] for row in mine),
        slow=sum(row["slow"] for row in mine),
        loops=sum(row["loops"] for row in mine),
        nonsense=sum(row["nonsense"] for row in mine),
        thumbs_up=sum(row["up"] for row in votes),
        thumbs_down=sum(row["down"] for row in votes),
        ttft_p95_s=ttft_p95_s,
    )


def _is_bad(row: RowMapping) -> bool:
    return bool(row["errors"] or row["slow"] or row["loops"] or row["nonsense"])


def _p95(connection: Connection, those: ColumnElement[bool]) -> float | None:
    """Return the nearest-rank 95th percentile of the time to first token, in seconds."""
    values = select(completions.c.ttft_s).join(conversations, _its_answers()).where(those, completions.c.ttft_s.is_not(None))
    ordered = sorted(connection.execute(values).scalars())
    return ordered[math.ceil(len(ordered) * _P95) - 1] if ordered else None


def _in_cohort(rollout: RolloutId) -> ColumnElement[bool]:
    """Both cohorts live at the same time: a conversation that began while the candidate had no share is in neither."""
    return and_(conversations.c.rollout == rollout, conversations.c.moved.is_(False), conversations.c.share > 0)


def _its_answers() -> ColumnElement[bool]:
    return and_(
        completions.c.endpoint == conversations.c.endpoint,
        completions.c.conversation == conversations.c.id,
        completions.c.version == conversations.c.version,
    )


def _slow(slow_ttft_s: float) -> ColumnElement[bool]:
    return func.coalesce(completions.c.ttft_s, 0.0) > slow_ttft_s


def _counts(slow_ttft_s: float) -> ColumnElement[bool]:
    ended = completions.c.outcome.in_([Outcome.OK, Outcome.ENGINE_ERROR])
    return or_(ended, completions.c.looped, completions.c.nonsense, _slow(slow_ttft_s))


def _times(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Return how often `condition` held in the group (0 where it is unknown)."""
    return func.coalesce(func.sum(cast(condition, Integer)), 0)
