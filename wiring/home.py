"""Preparing a home before the first service starts: folders, this release's schema, and the operator's key."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from core.access import Key, Role, new_secret, secret_digest
from core.errors import Conflict, Refused
from core.reasons import Reason
from core.settings import Settings
from wiring.adapters import Platform

_SHORTEST_KEY = 24


def prepare(settings: Settings) -> str:
    """Bring the home to the present schema, with an operator's key (the settings' or `<home>/operator.key`), and return it.

    Idempotent, also by several processes at once.
    """
    from registry.database import migrate  # noqa: PLC0415

    for folder in (settings.home, settings.downloads, settings.engines, settings.spool, settings.logs, settings.scratch, settings.answers):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrate(settings.database_url)
    return _operator_key(Platform(settings))


def _operator_key(of: Platform) -> str:
    secret = _given_key(of.settings.operator_key) if of.settings.operator_key else _kept_key(of.settings.home / "operator.key")
    if of.records.access.by_secret(secret_digest(secret)) is None:
        now = of.clock.now()
        principal = of.records.access.principal("operator", now)
        key_id, _ = new_secret()
        with suppress(Conflict):  # another process entered it a moment ago
            of.records.access.add_key(
                Key(key_id, principal.id, principal.name, Role.OPERATOR, (), secret_digest(secret), now, note="made at start")
            )
    return secret


def _given_key(secret: str) -> str:
    if not _fits_a_header(secret) or len(secret) < _SHORTEST_KEY:
        raise Refused(
            "SEATRIAL_OPERATOR_KEY must have 24 characters or more, all of them valid in an HTTP header",
            reason=Reason.BAD_SETTING,
            hint="make one: `openssl rand -hex 24`",
        )
    return secret


def _kept_key(path: Path) -> str:
    with suppress(FileNotFoundError):
        return _readable_key(path)
    _, secret = new_secret()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    return secret


def _readable_key(path: Path) -> str:
    """Return the key in a file. Raises Refused for one that no client could send, and FileNotFoundError."""
    secret = path.read_bytes().strip()
    if not secret or not _fits_a_header(secret.decode("latin-1")):
        raise Refused(
            f"{path} must hold one key of ASCII characters that are valid in an HTTP header, got {len(secret)} bytes of another form",
            reason=Reason.BAD_HOME,
            hint="restore the file from a backup, or remove it: `seatrial up` then makes another key",
        )
    return secret.decode("ascii")


def _fits_a_header(secret: str) -> bool:
    return secret.isascii() and secret.isprintable() and " " not in secret
