"""feedback give, list, follow."""

from __future__ import annotations

from typing import Literal

import click

from seatrial.cli.numbers import ago
from seatrial.cli.output import as_json, client_of, plain, say_json, short, show_table
from seatrial.types import Feedback

_MARK = {"up": "👍", "down": "👎", None: "  "}


@click.group(invoke_without_command=True)
@click.option("--follow", "-f", is_flag=True, help="Show feedback as it comes, until Ctrl-C.")
@click.option("--endpoint", "-e", help="Only this endpoint.")
@click.option("--submission", "-s", help="Only on the version of this submission.")
@as_json
@click.pass_context
def feedback(ctx: click.Context, follow: bool, endpoint: str | None, submission: str | None, as_json: bool) -> None:
    """Give feedback on an answer, or see what users say."""
    if ctx.invoked_subcommand is not None:
        return
    if not follow:
        _list(ctx, endpoint, submission, 100, as_json=as_json)
        return
    for one in client_of(ctx).feedback.follow(endpoint=endpoint, submission=submission):
        say_json(one) if as_json else click.echo(_line(one))


@feedback.command()
@click.argument("completion")
@click.option("--up", "thumb", flag_value="up", help="A good answer.")
@click.option("--down", "thumb", flag_value="down", help="A bad answer.")
@click.option("--comment", default="", help="What you think of it.")
@as_json
@click.pass_context
def give(ctx: click.Context, completion: str, thumb: Literal["up", "down"] | None, comment: str, as_json: bool) -> None:
    """Vote or comment on COMPLETION (its id is shown by `seatrial chat`, and is the `id` of an OpenAI answer)."""
    if thumb is None and not comment:
        raise click.UsageError("give --up, --down or --comment")
    client_of(ctx).feedback.give(completion, thumb=thumb, comment=comment)
    if as_json:
        say_json({"completion": completion, "thumb": thumb, "comment": comment})
    else:
        click.echo(f"kept: {f'thumb {thumb}' if thumb else 'comment'} on {plain(completion)}")


@feedback.command(name="list")
@click.option("--endpoint", "-e", help="Only this endpoint.")
@click.option("--submission", "-s", help="Only on the version of this submission.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@as_json
@click.pass_context
def list_(ctx: click.Context, endpoint: str | None, submission: str | None, limit: int, as_json: bool) -> None:
    """List feedback, oldest first."""
    _list(ctx, endpoint, submission, limit, as_json=as_json)


def _list(ctx: click.Context, endpoint: str | None, submission: str | None, limit: int, *, as_json: bool) -> None:
    found = client_of(ctx).feedback.list(endpoint=endpoint, submission=submission, limit=limit)
    if as_json:
        say_json(found)
        return
    rows = ((ago(one.at), one.endpoint, short(one.version), one.thumb or "-", one.comment, one.completion) for one in found)
    show_table(("WHEN", "ENDPOINT", "VERSION", "THUMB", "COMMENT", "COMPLETION"), rows, empty="no feedback yet")


def _line(one: Feedback) -> str:
    return f"{one.at:%H:%M:%S} {one.endpoint} {short(one.version)} {_MARK.get(one.thumb, '  ')} {plain(one.comment)}".rstrip()
