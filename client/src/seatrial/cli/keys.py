"""keys create, list, revoke; whoami."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

from seatrial.cli.numbers import ago
from seatrial.cli.output import as_json, client_of, plain, say_json, show_pairs, show_table
from seatrial.types import Key

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Span(click.ParamType[float]):
    """A length of time: `90s`, `30m`, `12h` or `7d`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        found = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if not found:
            self.fail(f"{value!r} is not a duration; write 90s, 30m, 12h or 7d", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


@click.group()
def keys() -> None:
    """Create, list and revoke keys (operators only)."""


@keys.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["application", "submitter", "operator"]), default="application", show_default=True)
@click.option("--endpoint", "-e", "endpoints", multiple=True, help="An endpoint it may call; may be repeated (default: every one).")
@click.option("--expires-in", type=Span(), help="For how long it works: 90s, 30m, 12h, 7d (default: until it is revoked).")
@click.option("--note", default="", help="What it is for.")
@as_json
@click.pass_context
def create(
    ctx: click.Context, *, name: str, role: str, endpoints: tuple[str, ...], expires_in: float | None, note: str, as_json: bool
) -> None:
    """Make a key for NAME (a person, team or application). The secret is shown this once."""
    made = client_of(ctx).keys.create(name, role, endpoints=endpoints, expires_in_s=expires_in, note=note)
    if as_json:
        say_json(made)
        return
    click.echo(made.secret)
    click.echo(f"{made.id}, {made.role} key of {plain(made.name)}. Keep the secret now: it is not shown again.", err=True)


@keys.command(name="list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List keys, newest first, without their secrets."""
    found = client_of(ctx).keys.list()
    if as_json:
        say_json(found)
        return
    rows = (
        (one.id, one.name, one.role, ", ".join(one.endpoints) or "every one", _life(one), ago(one.created_at), one.note) for one in found
    )
    show_table(("KEY", "NAME", "ROLE", "ENDPOINTS", "STATE", "MADE", "NOTE"), rows, empty="no keys")


@keys.command()
@click.argument("key")
@as_json
@click.pass_context
def revoke(ctx: click.Context, key: str, as_json: bool) -> None:
    """Revoke KEY (its id, not its secret). Gateways follow within seconds."""
    revoked = client_of(ctx).keys.revoke(key)
    say_json(revoked) if as_json else click.echo(f"{revoked.id} of {plain(revoked.name)} is revoked")


@click.command()
@as_json
@click.pass_context
def whoami(ctx: click.Context, as_json: bool) -> None:
    """Show who your key is and where the gateway is."""
    caller = client_of(ctx).whoami()
    if as_json:
        say_json(caller)
        return
    show_pairs((
        ("name", caller.name),
        ("role", caller.role),
        ("key", caller.key),
        ("endpoints", ", ".join(caller.endpoints) or "every one"),
        ("expires", caller.expires_at or "never"),
        ("gateway", caller.gateway),
    ))  # fmt: skip


def _life(one: Key) -> str:
    if one.revoked_at:
        return "revoked"
    return "expired" if one.expires_at and one.expires_at <= datetime.now(UTC) else "live"
