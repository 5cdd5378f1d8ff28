"""The data of a verdict: what both versions did in the conversations of one rollout.

A conversation belongs to a cohort when it was assigned while the candidate had a share and was not moved. Its answers are ordered by
their ends, so that a later look never finds another first answer; completions that a dead gateway lost are left out. The totals count
conversations with an answer that counts. An answer counts when it ended on its own (`ok`, `engine_error`) or was bad whatever its end: a
loop, nonsense, or a first token that took longer than the limit, also where the client gave up waiting for it. What the client broke off
or got wrong otherwise says nothing of a model.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, RowMapping, Select, Subquery, and_, case, cast, func, or_, select

from core.conversations import Outcome, Thumb
from core.endpoints import EARLY_ANSWERS, BadEvent, Cohort, ConversationOutcome
from core.ids import RolloutId
from core.ports.records import Cohorts
from registry.database.tables import completions, conversations, feedback

_P95 = 0.95
_COLUMNS: Final[Mapping[BadEvent, str]] = {
    BadEvent.ERROR: "errors",
    BadEvent.SLOW: "slow",
    BadEvent.LOOP: "loops",
    BadEvent.NONSENSE: "nonsense",
}
"""The events that are recorded, with the column of the query (and the field of `Cohort`) that counts them."""


def read_cohorts(connection: Connection, rollout: RolloutId, slow_ttft_s: float, window_s: float) -> Cohorts:
    """Return both cohorts and their conversations in order of their start."""
    rows = connection.execute(_per_conversation(rollout, slow_ttft_s, window_s)).mappings().all()
    votes = defaultdict(list)
    for vote in connection.execute(_per_vote(rollout, window_s)).mappings():
        votes[vote["endpoint"], vote["conversation"]].append(vote)
    outcomes = tuple(_outcome(row, votes.get((row["endpoint"], row["id"]), ())) for row in rows)
    cohorts = []
    for candidate in (False, True):
        mine = [row for row in rows if bool(row["candidate"]) is candidate and row["completions"]]
        cast_here = [vote for row in mine for vote in votes.get((row["endpoint"], row["id"]), ())]
        those = and_(_in_cohort(rollout), conversations.c.candidate.is_(candidate), _counts(slow_ttft_s))
        cohorts.append(_cohort(mine, cast_here, _p95(connection, those)))
    return Cohorts(stable=cohorts[0], candidate=cohorts[1], outcomes=outcomes)


def _per_conversation(rollout: RolloutId, slow_ttft_s: float, window_s: float) -> Select[Any]:
    answers = _answers(rollout, slow_ttft_s).c
    facts = (answers.endpoint, answers.id, answers.candidate, answers.share, answers.synthetic, answers.assigned_at)
    counts = answers.counts == 1
    first = and_(counts, answers.place == 1)
    early = and_(counts, answers.place <= EARLY_ANSWERS, answers.ended_at <= answers.assigned_at + window_s)
    return (
        select(
            *facts,
            func.max(case((answers.place == 1, answers.completion))).label("first_answer"),
            _times(counts).label("completions"),
            *(_times(and_(counts, answers[name] == 1)).label(name) for name in _COLUMNS.values()),
            *(_times(and_(first, answers[name] == 1)).label(f"first_{name}") for name in _COLUMNS.values()),
            *(_times(and_(early, answers[name] == 1)).label(f"early_{name}") for name in _COLUMNS.values()),
        )
        .group_by(*facts)
        .order_by(answers.assigned_at, answers.endpoint, answers.id)
    )


def _answers(rollout: RolloutId, slow_ttft_s: float) -> Subquery:
    """Select every ended answer of the rollout's conversations: its place in its conversation, and whether it was bad, as 0 or 1.

    A conversation without one has a row whose `completion` is NULL. One join, so that SQLite does not read the answers once for each.
    """
    own = conversations.c
    ended_at = completions.c.started_at + completions.c.seconds
    conditions = {
        BadEvent.ERROR: completions.c.outcome == Outcome.ENGINE_ERROR,
        BadEvent.SLOW: _slow(slow_ttft_s),
        BadEvent.LOOP: completions.c.looped,
        BadEvent.NONSENSE: completions.c.nonsense,
    }
    return (
        select(
            *(own.endpoint, own.id, own.candidate, own.share, own.synthetic, own.assigned_at),
            completions.c.id.label("completion"),
            ended_at.label("ended_at"),
            func.row_number().over(partition_by=(own.endpoint, own.id), order_by=(ended_at, completions.c.id)).label("place"),
            cast(_counts(slow_ttft_s), Integer).label("counts"),
            *(cast(conditions[event], Integer).label(name) for event, name in _COLUMNS.items()),
        )
        .select_from(conversations.outerjoin(completions, and_(_its_answers(), completions.c.outcome != Outcome.LOST)))
        .where(_in_cohort(rollout))
        .subquery("answers")
    )


def _per_vote(rollout: RolloutId, window_s: float) -> Select[Any]:
    """Count votes per answer, in `early` those against it within the window. A vote on another version's answer is not this cohort's."""
    its_votes = and_(
        feedback.c.endpoint == conversations.c.endpoint,
        feedback.c.conversation == conversations.c.id,
        feedback.c.version == conversations.c.version,
    )
    its = (feedback.c.endpoint, feedback.c.conversation, feedback.c.completion)
    is_down = feedback.c.thumb == Thumb.DOWN
    up, down = _times(feedback.c.thumb == Thumb.UP).label("up"), _times(is_down).label("down")
    early = _times(and_(is_down, feedback.c.at <= conversations.c.assigned_at + window_s)).label("early")
    return select(*its, up, down, early).join(conversations, its_votes).where(_in_cohort(rollout), feedback.c.counted).group_by(*its)


def _outcome(row: RowMapping, votes: Sequence[RowMapping]) -> ConversationOutcome:
    return ConversationOutcome(
        conversation=row["id"],
        candidate=bool(row["candidate"]),
        share=row["share"],
        started_at=row["assigned_at"],
        answered=row["first_answer"] is not None,
        first=_events(row, "first_"),
        early=_events(row, "early_"),
        thumbs_down=any(vote["early"] > 0 and vote["completion"] == row["first_answer"] for vote in votes),
        synthetic=bool(row["synthetic"]),
    )


def _events(row: RowMapping, when: str) -> frozenset[BadEvent]:
    return frozenset(event for event, name in _COLUMNS.items() if row[when + name])


def _cohort(mine: Sequence[RowMapping], votes: Sequence[RowMapping], ttft_p95_s: float | None) -> Cohort:
    return Cohort(
        conversations=len(mine),
        bad=sum(any(row[name] for name in _COLUMNS.values()) for row in mine),
        completions=sum(row["completions"] for row in mine),
        **{name: sum(row[name] for row in mine) for name in _COLUMNS.values()},
        thumbs_up=sum(row["up"] for row in votes),
        thumbs_down=sum(row["down"] for row in votes),
        ttft_p95_s=ttft_p95_s,
    )


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
    """Whether the time to the first token exceeds the limit, or the time after which a client gave up waiting for one."""
    given_up = case((completions.c.outcome == Outcome.CLIENT_GONE, completions.c.seconds), else_=0.0)
    return func.coalesce(completions.c.ttft_s, given_up) > slow_ttft_s


def _counts(slow_ttft_s: float) -> ColumnElement[bool]:
    ended = completions.c.outcome.in_([Outcome.OK, Outcome.ENGINE_ERROR])
    return or_(ended, completions.c.looped, completions.c.nonsense, _slow(slow_ttft_s))


def _times(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Return how often `condition` held in the group (0 where it is unknown)."""
    return func.coalesce(func.sum(cast(condition, Integer)), 0)
