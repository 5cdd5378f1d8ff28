"""Every table. Column types are those that SQLite and PostgreSQL agree on: epoch floats, enums as strings, JSON as text.

A change here needs a migration (`migrations/versions/`); a test compares the two.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Dialect, Double, ForeignKey, Index, Integer, MetaData, Table, Text, TypeDecorator, false
from sqlalchemy import text as sql


class Words(TypeDecorator[str]):
    """Text as people send it: NUL and lone surrogates, which PostgreSQL cannot hold, become the replacement character."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> str | None:
        """Return text that both databases can hold; an enum becomes its plain string."""
        if value is None:
            return None
        words = value if type(value) is str else str(value)
        if words.isascii() and "\0" not in words:
            return words
        return words.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Json(TypeDecorator[Any]):
    """JSON as text: PostgreSQL's own type refuses NaN, which a benchmark's numbers may hold."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> str | None:
        """Return the JSON, ASCII only."""
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, _dialect: Dialect) -> Any:
        """Return what was stored."""
        return None if value is None else json.loads(value)


metadata = MetaData()
_OPEN = sql("state IN ('dark', 'shifting', 'soaking', 'rolling_back')")


def _needed(name: str, kind: Any = Words, **options: Any) -> Column[Any]:
    return Column(name, kind, nullable=False, **options)


def _key(name: str, *more: Any) -> Column[Any]:
    return Column(name, Words, *more, primary_key=True)


submissions = Table(
    "submissions",
    metadata,
    _key("id"),
    _needed("source"),
    Column("revision", Words),
    _needed("endpoint"),
    Column("idempotency_key", Words),
    _needed("note"),
    _needed("submitter"),
    _needed("state"),
    _needed("created_at", Double),
    _needed("updated_at", Double),
    Column("version", Words),
    Column("rollout", Words),
    _needed("reason"),
    _needed("message"),
    _needed("hint"),
    Column("flow_run", Words),
    _needed("runs", Integer),
    _needed("lease_until", Double),
    Column("driver", Words),
    _needed("row_revision", Integer, server_default="0"),
    Index("submissions_once", "submitter", "idempotency_key", unique=True),
    Index("submissions_state", "state", "created_at"),
    Index("submissions_endpoint", "endpoint", "created_at"),
)

steps = Table(
    "steps",
    metadata,
    _key("submission", ForeignKey("submissions.id")),
    _key("name"),
    _needed("state"),
    _needed("attempt", Integer),
    _needed("started_at", Double),
    Column("ended_at", Double),
    _needed("progress", Double),
    _needed("message"),
    _needed("detail", Json),
)

versions = Table(
    "versions",
    metadata,
    _key("id"),
    _needed("source"),
    _needed("commit_id"),
    _needed("files", Json),
    _needed("tensors"),
    _needed("tensors_manifest"),
    _needed("licence"),
    Column("chat_template", Words),
    _needed("needs", Json),
    _needed("created_at", Double),
    Column("registered_uri", Words),
)

version_sources = Table(
    "version_sources",
    metadata,
    _key("source"),
    _key("commit_id"),
    _key("version", ForeignKey("versions.id")),
)

version_references = Table(
    "version_references",
    metadata,
    _key("version", ForeignKey("versions.id")),
    _needed("document", Json),
)

trial_reports = Table(
    "trial_reports",
    metadata,
    _key("version"),
    _key("kind"),
    _key("key"),
    _needed("decision"),
    _needed("findings", Json),
    _needed("numbers", Json),
    _needed("detail", Json),
    _needed("seconds", Double),
    _needed("at", Double),
)

endpoints = Table(
    "endpoints",
    metadata,
    _key("name"),
    _needed("created_at", Double),
    Column("stable", Words),
    Column("previous", Words),
    Column("candidate", Words),
    Column("rollout", Words),
    _needed("keep_text_days", Integer),
    _needed("policy", Json, server_default="{}"),
    Column("removed_at", Double),  # a removed endpoint keeps its row: its rollouts refer to it
)

rollouts = Table(
    "rollouts",
    metadata,
    _key("id"),
    _needed("submission"),
    Column("endpoint", Words, ForeignKey("endpoints.name"), nullable=False),
    _needed("candidate"),
    Column("stable", Words),
    _needed("state"),
    _needed("step", Integer),
    _needed("share", Double),
    _needed("started_at", Double),
    _needed("step_started_at", Double),
    _needed("deadline", Double),
    _needed("revision", Integer),
    _needed("reason"),
    Column("withdrawal", Words),
    Column("verdict", Json),
    Column("ended_at", Double),
    _needed("lease_owner"),
    _needed("lease_until", Double),
    Index("rollouts_one_open", "endpoint", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("rollouts_started", "started_at"),
)

conversations = Table(
    "conversations",
    metadata,
    _key("endpoint"),
    _key("id"),
    _needed("version"),
    Column("rollout", Words),
    _needed("candidate", Boolean),
    _needed("share", Double),
    _needed("assigned_at", Double),
    _needed("synthetic", Boolean),
    _needed("moved", Boolean),
    _needed("last_seen", Double),
    Index("conversations_rollout", "rollout"),
    Index("conversations_last_seen", "last_seen"),
)

completions = Table(
    "completions",
    metadata,
    _key("id"),
    _needed("conversation"),
    _needed("endpoint"),
    _needed("version"),
    Column("rollout", Words),
    _needed("key"),
    _needed("principal"),
    _needed("outcome"),
    _needed("status", Integer),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("finish_reason", Words),
    _needed("looped", Boolean),
    _needed("started_at", Double),
    Column("ttft_s", Double),
    _needed("seconds", Double),
    _needed("streamed", Boolean),
    _needed("nonsense", Boolean, server_default=false()),
    Index("completions_conversation", "endpoint", "conversation"),
)

usage = Table(
    "usage",
    metadata,
    _key("completion"),
    _needed("principal"),
    _needed("key"),
    _needed("endpoint"),
    _needed("version"),
    _needed("prompt_tokens", BigInteger),
    _needed("completion_tokens", BigInteger),
    _needed("at", Double),
    Index("usage_principal", "principal", "at"),
)

feedback = Table(
    "feedback",
    metadata,
    _key("completion"),
    _key("principal"),
    Column("thumb", Words),
    _needed("comment"),
    _needed("at", Double),
    _needed("endpoint"),
    _needed("version"),
    _needed("conversation"),
    _needed("counted", Boolean),
    Index("feedback_at", "at"),
    Index("feedback_conversation", "endpoint", "conversation"),
)

benchmarks = Table(
    "benchmarks",
    metadata,
    _key("id"),
    _needed("version"),
    Column("endpoint", Words),
    _needed("suite"),
    _needed("plan_key"),
    _needed("plan", Json),
    _needed("trigger"),
    _needed("state"),
    _needed("started_at", Double),
    Column("ended_at", Double),
    _needed("updated_at", Double),
    _needed("numbers", Json),
    _needed("rows_uri"),
    Column("baseline", Words),
    Column("decision", Words),
    _needed("reason"),
    _needed("run_url"),
    Column("submission", Words),
    Column("asked_by", Words),
    _needed("progress", Double),
    _needed("comparison", Json),
    _needed("studies", Json),
    Column("flow_run", Words),
    _needed("runs", Integer),
    _needed("lease_until", Double),
    Column("driver", Words),
    _needed("revision", Integer, server_default="0"),
    Index("benchmarks_version", "version", "plan_key", "started_at"),
    Index("benchmarks_endpoint", "endpoint", "started_at"),
    Index("benchmarks_state", "state", "started_at"),
    Index("benchmarks_submission", "submission"),
)

principals = Table("principals", metadata, _key("id"), _needed("name", unique=True), _needed("created_at", Double))

keys = Table(
    "keys",
    metadata,
    _key("id"),
    Column("principal", Words, ForeignKey("principals.id"), nullable=False),
    _needed("role"),
    _needed("endpoints", Json),
    _needed("secret_sha256", unique=True),
    _needed("created_at", Double),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    _needed("note"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    _needed("at", Double),
    _needed("actor"),
    _needed("action"),
    _needed("subject"),
    _needed("detail", Json),
    Index("audit_subject", "subject"),
)

gateways = Table("gateways", metadata, _key("name"), _needed("generation", BigInteger), _needed("at", Double))

runners = Table(
    "runners",
    metadata,
    _key("host"),
    _needed("pid", Integer),
    _needed("started", Double),
    _needed("at", Double),
    _needed("slots", Integer),
    _needed("full", Boolean),
)

installation = Table("installation", metadata, _key("id"))
"""One row: the identity of this installation, by which a weights store knows who may remove from it."""

routes = Table("routes", metadata, Column("id", Integer, primary_key=True, autoincrement=False), _needed("generation", BigInteger))
"""One row (id 1): the generation that grows with every change of endpoints, rollouts and keys."""

leases = Table(
    "leases",
    metadata,
    _key("name"),
    _needed("holder"),
    _needed("token", BigInteger),
    _needed("until", Double),
    _needed("called_at", Double),
    _needed("began_at", Double),
    _needed("ended_at", Double),
    _needed("failed"),
    _needed("failures", Integer),
)
"""Background services of which one instance works at a time, and what their last pass came to."""
