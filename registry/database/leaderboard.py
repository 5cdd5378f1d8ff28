"""The rows of the leaderboard, without the benchmarks' scores."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Integer, Select, and_, cast, func, or_, select

from core.conversations import Outcome, Thumb, Usage
from core.ids import Epoch
from core.ports.records import LeaderboardRow, Recent
from registry.database.tables import completions, conversations, feedback, usage


def read_leaderboard(connection: Connection) -> tuple[LeaderboardRow, ...]:
    """Return one row per (endpoint, version) with a completion that was not lost, by both."""
    billed = {(row[0], row[1]): Usage(int(row[2]), int(row[3])) for row in connection.execute(_billed())}
    votes = {(row[0], row[1]): (int(row[2]), int(row[3])) for row in connection.execute(_votes())}
    rows = []
    for counts in connection.execute(_answered()).mappings():
        key = (counts["endpoint"], counts["version"])
        up, down = votes.get(key, (0, 0))
        rows.append(LeaderboardRow(**counts, usage=billed.get(key, Usage(0, 0)), thumbs_up=up, thumbs_down=down))
    return tuple(sorted(rows, key=lambda row: (row.endpoint, row.version)))


def read_recent(connection: Connection, since: Epoch) -> tuple[Recent, ...]:
    """Return one row per (endpoint, version) with completions since, by both. The index is that of the conversations' last request."""
    own, talk = completions.c, conversations.c
    query = (
        select(
            own.endpoint,
            own.version,
            func.count().label("completions"),
            func.sum(cast(own.outcome == Outcome.ENGINE_ERROR, Integer)).label("errors"),
        )
        .join(conversations, and_(talk.endpoint == own.endpoint, talk.id == own.conversation))
        .where(talk.last_seen >= since, own.started_at >= since, own.outcome != Outcome.LOST)
        .group_by(own.endpoint, own.version)
        .order_by(own.endpoint, own.version)
    )
    return tuple(Recent(**row) for row in connection.execute(query).mappings())


def _answered() -> Select[Any]:
    own = completions.c
    return (
        select(
            own.endpoint,
            own.version,
            func.count(own.conversation.distinct()).label("conversations"),
            func.count().label("completions"),
            func.sum(cast(own.looped, Integer)).label("loops"),
            func.sum(cast(own.nonsense, Integer)).label("nonsense"),
            func.sum(cast(own.outcome == Outcome.ENGINE_ERROR, Integer)).label("errors"),
        )
        .where(own.outcome != Outcome.LOST)
        .group_by(own.endpoint, own.version)
    )


def _billed() -> Select[Any]:
    own = usage.c
    totals = (func.sum(own.prompt_tokens), func.sum(own.completion_tokens))
    return select(own.endpoint, own.version, *totals).group_by(own.endpoint, own.version)


def _votes() -> Select[Any]:
    """Votes that count: a moved conversation's do not, even when they came before it was moved."""
    own = feedback.c
    up, down = (func.coalesce(func.sum(cast(own.thumb == thumb, Integer)), 0) for thumb in (Thumb.UP, Thumb.DOWN))
    of = and_(conversations.c.endpoint == own.endpoint, conversations.c.id == own.conversation)
    stays = or_(conversations.c.moved.is_(None), conversations.c.moved.is_(False))
    return (
        select(own.endpoint, own.version, up, down)
        .outerjoin(conversations, of)
        .where(own.counted, stays)
        .group_by(own.endpoint, own.version)
    )
