"""submit, status, submissions, logs, cancel."""

from __future__ import annotations

import click

from seatrial.cli import INTERRUPTED
from seatrial.cli.numbers import ago
from seatrial.cli.output import as_json, client_of, flowing, fresh_console, note_waiting, say_json, show_pairs, show_table, waits_alike
from seatrial.client import Client
from seatrial.paths import looks_like_path, resolved
from seatrial.types import Logs, Submission


def _model(text: str) -> str:
    """Make a folder's path absolute: the platform does not know this shell's folder."""
    return str(resolved(text)) if looks_like_path(text) else text


@click.command()
@click.argument("model")
@click.option("--endpoint", "-e", required=True, help="The public name that applications will call.")
@click.option("--watch", "-w", "watched", is_flag=True, help="Show each step until it ends.")
@click.option("--note", default="", help="A line for yourself and the operators.")
@click.option("--idempotency-key", help="The same key again is the same submission.")
@as_json
@click.pass_context
def submit(ctx: click.Context, *, model: str, endpoint: str, watched: bool, note: str, idempotency_key: str | None, as_json: bool) -> None:
    """Bring MODEL to an endpoint: ORG/MODEL[@REVISION] on the hub, or a folder (./dir, /abs).

    Prints the submission's id at once. With --watch it exits 0 when the model serves and 1 when it ended otherwise.
    """
    client = client_of(ctx)
    submission = client.submissions.submit(_model(model), endpoint, note=note, idempotency_key=idempotency_key)
    if watched:
        if not as_json:
            click.echo(submission.id)
        _watch(ctx, client, submission.id, as_json=as_json)
    elif as_json:
        say_json(submission)
    else:
        click.echo(submission.id)
        click.echo(f"watch it: seatrial status {submission.id} --watch", err=True)


@click.command()
@click.argument("submission", required=False)
@click.option("--problems", is_flag=True, help="Only what is wrong: each problem with its cause and the next command (operators only).")
@click.option("--watch", "-w", "watched", is_flag=True, help="Show each step of SUBMISSION until it ends.")
@as_json
@click.pass_context
def status(ctx: click.Context, *, submission: str | None, problems: bool, watched: bool, as_json: bool) -> None:
    """Show problems, endpoints and the latest submissions, or SUBMISSION with its steps.

    With --problems it exits 0 when nothing is wrong and 1 when there are problems; notices do not count. It exits 6 when the platform
    does not answer, and then names the services that are down.
    """
    from seatrial.cli.overview import explained, show_overview, show_problems  # noqa: PLC0415 - other commands do not need it

    if submission is None and watched:
        raise click.UsageError("--watch needs a SUBMISSION")
    if submission is not None and problems:
        raise click.UsageError("--problems takes no SUBMISSION")
    client = client_of(ctx)
    with explained(client):
        if problems:
            ctx.exit(show_problems(client, as_json=as_json))
        elif submission is None:
            show_overview(client, as_json=as_json)
        elif watched:
            _watch(ctx, client, submission, as_json=as_json)
        else:
            one = client.submissions.get(submission)
            say_json(one) if as_json else _show(client, one)


@click.command()
@click.option("--state", help="Only those in this state.")
@click.option("--endpoint", "-e", help="Only those for this endpoint.")
@click.option("--mine", is_flag=True, help="Only your own (submitters see no others).")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@as_json
@click.pass_context
def submissions(ctx: click.Context, *, state: str | None, endpoint: str | None, mine: bool, limit: int, as_json: bool) -> None:
    """List submissions, newest first."""
    found = client_of(ctx).submissions.list(state=state, endpoint=endpoint, mine=mine, limit=limit)
    say_json(found) if as_json else _table(found)


@click.command()
@click.argument("submission")
@click.option("--follow", "-f", is_flag=True, help="Show new lines, and why the submission waits, until it ends.")
@as_json
@click.pass_context
def logs(ctx: click.Context, submission: str, follow: bool, as_json: bool) -> None:
    """Show the log of a submission's flow run, and the end of its engine's output.

    With --follow it exits as `status --watch` does: 0 when the model serves and 1 when it ended otherwise.
    """
    from seatrial.cli.overview import explained  # noqa: PLC0415 - other commands do not need it

    client = client_of(ctx)
    with explained(client):
        if follow:
            ctx.exit(_follow(client, submission, as_json=as_json))
        found = client.submissions.all_logs(submission)
    say_json(found) if as_json else _show_logs(found)


@click.command()
@click.argument("submission")
@as_json
@click.pass_context
def cancel(ctx: click.Context, submission: str, as_json: bool) -> None:
    """Cancel a submission that has not ended; what it has on its way is taken back."""
    cancelled = client_of(ctx).submissions.cancel(submission)
    say_json(cancelled) if as_json else click.echo(f"{cancelled.id}: {cancelled.state}")


def _follow(client: Client, submission: str, *, as_json: bool) -> int:
    """Show new lines and why the submission waits until it ends. Returns the exit code: 0 when it serves. Ctrl-C leaves it running."""
    last: Submission | None = None
    try:
        for current, lines in client.submissions.follow_logs(submission):
            if as_json:
                _say_followed(last, current, lines)
            else:
                note_waiting(last.waiting if last else None, current.waiting)
                _show_logs(lines)
            last = current
    except KeyboardInterrupt:
        click.echo(f"interrupted; the submission goes on: seatrial logs {submission} --follow", err=True)
        return INTERRUPTED
    return 0 if last is not None and last.state == "serving" else 1


def _say_followed(last: Submission | None, current: Submission, lines: Logs) -> None:
    """Print a document for new lines, and for another reason of waiting."""
    if lines.flow or lines.engine or not waits_alike(last.waiting if last else None, current.waiting):
        say_json({"flow": lines.flow, "engine": lines.engine, "waiting": current.waiting})


def _watch(ctx: click.Context, client: Client, submission: str, *, as_json: bool) -> None:
    from seatrial.cli.watching import watch  # noqa: PLC0415 - only watching needs rich's live display

    ctx.exit(watch(client, submission, as_json=as_json))


def _table(found: tuple[Submission, ...]) -> None:
    rows = ((one.id, one.model, one.endpoint, one.state, one.submitter, ago(one.created_at)) for one in found)
    show_table(("SUBMISSION", "MODEL", "ENDPOINT", "STATE", "SUBMITTER", "WHEN"), rows, empty="no submissions")


def _show(client: Client, one: Submission) -> None:
    from seatrial.cli.watching import show_end, show_steps  # noqa: PLC0415 - only here is rich's live display needed

    show_pairs((
        ("submission", one.id),
        ("model", one.model),
        ("endpoint", one.endpoint),
        ("state", one.state),
        ("waiting", one.waiting.message if one.waiting else None),
        ("next", one.waiting.hint if one.waiting else None),
        ("submitter", one.submitter),
        ("note", one.note),
        ("version", one.version),
        ("rollout", one.rollout),
        ("run", one.links.run),
        ("registry", one.links.model),
        ("benchmark", f"seatrial bench show {one.benchmark}" if one.benchmark else None),
    ))  # fmt: skip
    console = fresh_console()
    show_steps(console, one)
    if one.ended:
        show_end(client, console, one)


def _show_logs(found: Logs) -> None:
    for line in found.flow:
        click.echo(f"{line.at:%H:%M:%S} {line.level:<7} {flowing(line.message)}")
    for text in found.engine:
        click.echo(f"engine   {flowing(text)}")
