"""models, leaderboard."""

from __future__ import annotations

import click

from seatrial.cli.numbers import ago, headline, number, part, size
from seatrial.cli.output import as_json, client_of, say_json, short, show_pairs, show_table
from seatrial.types import Model


@click.command()
@click.argument("version", required=False)
@as_json
@click.pass_context
def models(ctx: click.Context, version: str | None, as_json: bool) -> None:
    """Show model versions, newest first, or VERSION (8 characters are enough) with its trials."""
    client = client_of(ctx)
    if version is not None:
        one = client.models.get(version)
        say_json(one) if as_json else _show(one)
        return
    found = client.models.list()
    if as_json:
        say_json(found)
        return
    rows = (
        (short(one.id), f"{one.source}@{one.commit[:8]}", one.architecture, _size(one), one.licence, ago(one.created_at)) for one in found
    )
    show_table(("VERSION", "MODEL", "ARCHITECTURE", "SIZE", "LICENCE", "WHEN"), rows, empty="no model versions")


@click.command()
@click.option("--endpoint", "-e", help="Only this endpoint.")
@as_json
@click.pass_context
def leaderboard(ctx: click.Context, endpoint: str | None, as_json: bool) -> None:
    """Rank the versions that answered: by benchmark, then by votes, then by conversations."""
    found = client_of(ctx).leaderboard(endpoint)
    if as_json:
        say_json(found)
        return
    rows = (
        (place, one.endpoint, one.model or short(one.version), one.submitter, part(one.pass_at_1), f"+{one.thumbs_up} -{one.thumbs_down}",
         one.conversations, one.loops, one.nonsense, one.errors)
        for place, one in enumerate(found, start=1)
    )  # fmt: skip
    columns = ("#", "ENDPOINT", "MODEL", "SUBMITTER", "PASS@1", "VOTES", "CONVERSATIONS", "LOOPS", "NONSENSE", "ERRORS")
    show_table(columns, rows, empty="no version has answered yet")


def _size(one: Model) -> str:
    return size(one.weights_bytes)


def _show(one: Model) -> None:
    show_pairs((
        ("version", one.id),
        ("model", one.source),
        ("commit", one.commit),
        ("licence", one.licence),
        ("architecture", one.architecture),
        ("dtype", one.dtype),
        ("weights", _size(one)),
        ("context", f"{number(one.max_model_len)} tokens"),
        ("registered", one.registered_uri),
        ("registry", one.link),
    ))  # fmt: skip
    rows = ((report.kind, report.decision, report.reason or headline(report.numbers)) for report in one.reports)
    show_table(("TRIAL", "DECISION", "WHAT IT SAYS"), rows, empty="no trials yet")
