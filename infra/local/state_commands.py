"""Commands on the state of a home: backup, restore, gc."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.errors import Conflict
from core.ids import Epoch
from core.leases import HOUSEKEEPING, LONGEST_S, Lease
from core.ports.clock import SystemClock
from core.ports.records import Leases
from core.settings import Settings, read_settings
from core.shown import size
from infra.local.backup import back_up, database_file, require_database
from infra.local.backup import restore as bring_back
from infra.local.commands import home_option, json_option, reported
from seatrial.cli.output import show_table

if TYPE_CHECKING:
    from tasks.garbage import Found
    from wiring import Platform

_MIGRATIONS = Path(__file__).resolve().parents[2] / "registry" / "database" / "migrations"


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@home_option
@json_option
@reported
def backup(target: Path, home: Path | None, as_json: bool) -> None:
    """Copy the state of a home into TARGET, a new folder. The stack may run meanwhile."""
    made = back_up(read_settings(home=home), target.absolute(), SystemClock().now())
    if as_json:
        click.echo(json.dumps(asdict(made)))
        return
    click.echo(f"backed up {made.home}: {size(made.bytes)} in {target}; it holds the operator's key")
    for part in made.elsewhere:
        click.echo(f"not in it: {part}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@home_option
@json_option
@reported
def restore(source: Path, home: Path | None, as_json: bool) -> None:
    """Bring the backup SOURCE back as a home that is empty or new."""
    settings = read_settings(home=home)
    made = bring_back(source.absolute(), settings.home)
    if as_json:
        click.echo(json.dumps({**asdict(made), "restored": str(settings.home)}))
        return
    click.echo(f"restored {size(made.bytes)} into {settings.home}; start it with `seatrial up --home {settings.home}`")
    for part in made.elsewhere:
        click.echo(f"restore as well: {part}")


@click.command()
@home_option
@json_option
@click.option("--dry-run", is_flag=True, help="Show what would go and why the rest is kept; change nothing.")
@click.option(
    "--take-over", is_flag=True, help="First make this installation the owner of the weights store; the former one must have ended."
)
@reported
def gc(home: Path | None, as_json: bool, *, dry_run: bool, take_over: bool) -> None:
    """Remove stored data that nothing needs any more. The platform does the same once a day."""
    here = _platform(read_settings(home=home))
    if take_over:
        here.weights.claim(here.records.installation.id(), take_over=True)
    found = tuple(_planned(here) if dry_run else _collected(here))
    if as_json:
        click.echo(json.dumps([asdict(item) for item in found]))
        return
    show(found, dry_run=dry_run)


def show(found: Sequence[Found], *, dry_run: bool) -> None:
    """Print one row per stored thing, with its whole name, and the sums."""
    rows = [(item.kind, item.name, size(item.bytes), item.action, item.why) for item in found]
    show_table(("KIND", "NAME", "SIZE", "WOULD" if dry_run else "DID", "WHY"), rows, empty="nothing to remove")
    goes, hidden = (size(sum(item.bytes for item in found if item.action == action)) for action in ("delete", "withdraw"))
    would = "would be " if dry_run else ""
    click.echo(f"{would}deleted: {goes}; {would}withdrawn, to be deleted after the grace period: {hidden}")


def _platform(settings: Settings) -> Platform:
    """Return the adapters for a home. Raises Refused for a home without a database, and creates none."""
    from wiring import Platform  # noqa: PLC0415

    versions = require_database(settings)
    if versions:
        _require_schema(database_file(settings), versions)
    return Platform(settings)


def _require_schema(file: Path | None, versions: Sequence[str]) -> None:
    """Refuse a database that no `up` of this release has migrated yet. The schema of a later release is accepted: releases only add."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    scripts = ScriptDirectory(str(_MIGRATIONS))
    head, known = scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}
    if head not in versions and known.issuperset(versions):
        raise Conflict(f"{file} has schema version {', '.join(versions)}, expected {head}", hint="run `seatrial up`, which migrates it")


def _planned(here: Platform) -> Iterator[Found]:
    from tasks.garbage import KINDS  # noqa: PLC0415

    for plan, _apply in KINDS.values():
        yield from plan(here)


def _collected(here: Platform) -> Iterator[Found]:
    """Collect under the housekeeping lease, so that no service does it at the same time."""
    from tasks.garbage import KINDS, collect  # noqa: PLC0415

    leases, clock = here.records.leases, here.clock
    lease = leases.take(HOUSEKEEPING, f"{socket.gethostname()}:{os.getpid()}/gc", clock.now(), clock.now() + LONGEST_S)
    if lease is None:
        raise Conflict("housekeeping is under way in another process", hint="wait for its end, then look with --dry-run")
    try:
        for kind in KINDS:
            yield from collect(here, kind, lambda: _renew(leases, lease, clock.now()))
    finally:
        leases.release(lease)


def _renew(leases: Leases, lease: Lease, now: Epoch) -> None:
    leases.renew(lease, now + LONGEST_S)
