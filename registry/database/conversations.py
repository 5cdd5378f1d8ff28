"""Conversations, completions, usage and feedback: what the ledger ships, and what is asked about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, bindparam, case, or_, select, update

from core.conversations import Assignment, Completion, Feedback, Outcome, Usage
from core.errors import NotFound
from core.ids import CompletionId, EndpointName, Epoch, VersionId
from core.ports.records import LeaderboardRow, Recent
from core.reasons import Reason
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.leaderboard import read_leaderboard, read_recent
from registry.database.tables import completions, conversations, feedback, usage
from registry.database.upsert import insert_new, replacing, upsert

_FACTS = ("version", "rollout", "candidate", "share", "assigned_at", "synthetic")


class ConversationsTable:
    """Implements `Conversations`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def record(self, assignments: Sequence[Assignment], completions: Sequence[Completion], feedback: Sequence[Feedback]) -> None:
        """Write a batch in one transaction that outlives a power cut: the spool is deleted after it."""
        if not (assignments or completions or feedback):
            return
        with self._connections.write(durable=True) as connection:
            _record_assignments(connection, assignments)
            _record_completions(connection, completions)
            _record_feedback(connection, feedback)

    def completion(self, completion: CompletionId) -> Completion:
        """Return it."""
        with self._connections.read() as connection:
            row = connection.execute(select(completions).where(completions.c.id == completion)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no completion {completion}", reason=Reason.NO_COMPLETION, hint="give the id that the answer carried")
        return restore(Completion, dict(row) | {"usage": _usage(row)})

    def assignments(self, since: Epoch, limit: int) -> tuple[Assignment, ...]:
        """Return assignments whose last request is not older than `since`, newest first."""
        order = (conversations.c.last_seen.desc(), conversations.c.endpoint, conversations.c.id)
        query = select(conversations).where(conversations.c.last_seen >= since).order_by(*order).limit(limit)
        with self._connections.read() as connection:
            rows = connection.execute(query).mappings()
            return tuple(restore(Assignment, dict(row) | {"conversation": row["id"]}) for row in rows)

    def feedback(
        self,
        *,
        endpoint: EndpointName | None = None,
        versions: Iterable[VersionId] | None = None,
        after: Epoch = 0.0,
        limit: int = 100,
    ) -> tuple[Feedback, ...]:
        """Return feedback that came after `after`, oldest first. A vote in a conversation that was moved later counts no more."""
        query = select(feedback, conversations.c.moved).outerjoin(conversations, _of_conversation()).where(feedback.c.at > after)
        if endpoint is not None:
            query = query.where(feedback.c.endpoint == endpoint)
        if versions is not None:
            query = query.where(feedback.c.version.in_(list(versions)))
        query = query.order_by(feedback.c.at, feedback.c.completion, feedback.c.principal).limit(limit)
        with self._connections.read() as connection:
            rows = connection.execute(query).mappings()
            return tuple(restore(Feedback, dict(row) | {"counted": row["counted"] and not row["moved"]}) for row in rows)

    def leaderboard(self) -> tuple[LeaderboardRow, ...]:
        """Return one row per (endpoint, version) that answered anything."""
        with self._connections.read() as connection:
            return read_leaderboard(connection)

    def recent(self, since: Epoch) -> tuple[Recent, ...]:
        """Return one row per (endpoint, version) with completions since."""
        with self._connections.read() as connection:
            return read_recent(connection, since)


def _record_assignments(connection: Connection, batch: Sequence[Assignment]) -> None:
    """Enter new conversations; a later assignment of a known one (it was forgotten, or moved) replaces what its row says."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for assignment in batch:
        key = (assignment.endpoint, assignment.conversation)
        rows[key] = _later(rows.get(key), _assignment_row(assignment))
    upsert(connection, conversations, _ordered(rows), _assignment_changes)


def _assignment_row(assignment: Assignment) -> dict[str, Any]:
    row: dict[str, Any] = plain(assignment)
    row["id"] = row.pop("conversation")
    return row | {"last_seen": assignment.assigned_at}


def _later(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """Return what stands after both, in this order: the rule of `_assignment_changes`, within one batch."""
    if one is None:
        return other
    newer = (other["assigned_at"], other["moved"]) > (one["assigned_at"], False)
    return (other if newer else one) | {"moved": one["moved"] or other["moved"]}


def _assignment_changes(new: Any) -> Mapping[str, Any]:
    old = conversations.c
    newer = or_(new.assigned_at > old.assigned_at, and_(new.assigned_at == old.assigned_at, new.moved))
    changes: dict[str, Any] = {name: case((newer, new[name]), else_=old[name]) for name in _FACTS}
    changes["moved"] = or_(old.moved, new.moved)
    changes["last_seen"] = case((new.last_seen > old.last_seen, new.last_seen), else_=old.last_seen)
    return changes


def _record_completions(connection: Connection, batch: Sequence[Completion]) -> None:
    kept: dict[str, Completion] = {}
    for completion in batch:
        standing = kept.get(completion.id)
        if standing is None or (standing.outcome is Outcome.LOST and completion.outcome is not Outcome.LOST):
            kept[completion.id] = completion
    rows = {key: _completion_row(completion) for key, completion in kept.items()}
    upsert(connection, completions, _ordered(rows), replacing(completions), where=_only_lost_is_replaced)
    billed = {key: _usage_row(c, c.usage) for key, c in kept.items() if c.usage is not None and c.outcome is not Outcome.LOST}
    insert_new(connection, usage, _ordered(billed))
    _record_last_seen(connection, kept.values())


def _only_lost_is_replaced(new: Any) -> ColumnElement[bool]:
    return and_(completions.c.outcome == Outcome.LOST, new.outcome != Outcome.LOST)


def _record_last_seen(connection: Connection, batch: Iterable[Completion]) -> None:
    seen: dict[tuple[str, str], float] = {}
    for completion in batch:
        key = (completion.endpoint, completion.conversation)
        seen[key] = max(seen.get(key, 0.0), completion.started_at)
    if not seen:
        return
    own = and_(conversations.c.endpoint == bindparam("of"), conversations.c.id == bindparam("chat"))
    later = update(conversations).where(own, conversations.c.last_seen < bindparam("seen")).values(last_seen=bindparam("seen"))
    connection.execute(later, [{"of": key[0], "chat": key[1], "seen": seen[key]} for key in sorted(seen)])


def _record_feedback(connection: Connection, batch: Sequence[Feedback]) -> None:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for vote in batch:
        key = (vote.completion, vote.principal)
        if key not in rows or vote.at >= rows[key]["at"]:
            rows[key] = plain(vote)
    upsert(connection, feedback, _ordered(rows), replacing(feedback), where=lambda new: new.at >= feedback.c.at)


def _ordered(rows: Mapping[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows by key: two batches at once lock them in the same order, so that PostgreSQL sees no deadlock."""
    return [rows[key] for key in sorted(rows)]


def _completion_row(completion: Completion) -> dict[str, Any]:
    row: dict[str, Any] = plain(completion)
    counted = row.pop("usage") or {"prompt_tokens": None, "completion_tokens": None}
    return row | counted


def _usage_row(completion: Completion, counted: Usage) -> dict[str, Any]:
    return {
        "completion": completion.id,
        "principal": completion.principal,
        "key": completion.key,
        "endpoint": completion.endpoint,
        "version": completion.version,
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "at": completion.started_at,
    }


def _usage(row: RowMapping) -> dict[str, int] | None:
    if row["prompt_tokens"] is None:
        return None
    return {"prompt_tokens": row["prompt_tokens"], "completion_tokens": row["completion_tokens"]}


def _of_conversation() -> ColumnElement[bool]:
    return and_(conversations.c.endpoint == feedback.c.endpoint, conversations.c.id == feedback.c.conversation)
