"""Commands on the state of a home: backup, restore, gc."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from core.errors import Conflict
from core.ids import Epoch
from core.leases import HOUSEKEEPING, LONGEST_S, Lease
from core.ports.clock import SystemClock
from core.ports.records import Leases
from core.settings import read_settings
from infra.local.backup import back_up
from infra.local.backup import restore as bring_back
from infra.local.commands import home_option, json_option, reported

if TYPE_CHECKING:
    from tasks.garbage import Found


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
    click.echo(f"backed up {made.home}: {made.bytes / 1e6:.1f} MB in {target}; it holds the operator's key")
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
    click.echo(f"restored {made.bytes / 1e6:.1f} MB into {settings.home}; start it with `seatrial up --home {settings.home}`")
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
    if take_over:
        _take_over(home)
    found = tuple(_planned(home) if dry_run else _collected(home))
    if as_json:
        click.echo(json.dumps([asdict(item) for item in found]))
        return
    table = Table("kind", "name", "MB", "would" if dry_run else "did", "why", box=None)
    for item in found:
        table.add_row(item.kind, item.name[:24], f"{item.bytes / 1e6:.1f}", str(item.action), item.why)
    Console().print(table)
    goes, hidden = (sum(item.bytes for item in found if item.action == action) / 1e6 for action in ("delete", "withdraw"))
    click.echo(f"deleted: {goes:.1f} MB; withdrawn, to be deleted after the grace period: {hidden:.1f} MB")


def _take_over(home: Path | None) -> None:
    from wiring import Platform  # noqa: PLC0415

    here = Platform(read_settings(home=home))
    here.weights.claim(here.records.installation.id(), take_over=True)


def _planned(home: Path | None) -> Iterator[Found]:
    from tasks.garbage import KINDS  # noqa: PLC0415
    from wiring import Platform  # noqa: PLC0415

    here = Platform(read_settings(home=home))
    for plan, _apply in KINDS.values():
        yield from plan(here)


def _collected(home: Path | None) -> Iterator[Found]:
    """Collect under the housekeeping lease, so that no service does it at the same time."""
    from tasks.garbage import KINDS, collect  # noqa: PLC0415
    from wiring import Platform  # noqa: PLC0415

    here = Platform(read_settings(home=home))
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
