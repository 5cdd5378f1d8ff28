"""status without a submission: what is wrong, what serves, what is on its way."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from seatrial.cli.numbers import ago, part
from seatrial.cli.output import cell_text, console, flowing, plain, say_json, short, show_table
from seatrial.client import Client
from seatrial.config import state_folder
from seatrial.errors import NotAuthorised, Unavailable
from seatrial.local import local_stack
from seatrial.types import Endpoint, PlatformHealth, PlatformProblem

_LATEST = 10
UNHEALTHY = 1


def show_problems(client: Client, *, as_json: bool) -> int:
    """Show every problem with its cause and the next command. Returns the exit code: 0 when none is more than a notice."""
    found = client.problems()
    if as_json:
        say_json(found)
    else:
        for number, problem in enumerate(found.problems):
            if number:
                click.echo()
            _show_problem(problem)
        if not found.problems:
            click.echo("no problems")
        elif found.healthy:
            click.echo("\nno problems; notices need no action")
    return 0 if found.healthy else UNHEALTHY


def show_overview(client: Client, *, as_json: bool) -> None:
    """Show how many problems there are, what every endpoint serves, and the latest submissions."""
    problems = _problems(client)
    endpoints, submissions = client.endpoints.list(), client.submissions.list(limit=_LATEST)
    if as_json:
        say_json({"problems": problems, "endpoints": endpoints, "submissions": submissions})
        return
    if problems is not None:
        click.echo(_counted(problems))
        click.echo()
    rows = ((one.name, short(one.stable), phase(one, one.stable), short(one.candidate), part(one.share) if one.candidate else "-")
            for one in endpoints)  # fmt: skip
    show_table(("ENDPOINT", "SERVES", "ENGINE", "CANDIDATE", "SHARE"), rows, empty="no endpoints; seatrial submit makes one")
    click.echo()
    lines = ((one.id, one.model, one.endpoint, one.state, ago(one.created_at)) for one in submissions)
    show_table(("SUBMISSION", "MODEL", "ENDPOINT", "STATE", "WHEN"), lines, empty="no submissions")


def phase(one: Endpoint, version: str | None) -> str:
    """Return the phase of a version's engine, `-` where there is none."""
    return next((engine.phase for engine in one.engines if engine.version == version), "-")


@contextmanager
def explained(client: Client) -> Iterator[None]:
    """Add to Unavailable which services of this machine's stack do not run, and how to start them."""
    try:
        yield
    except Unavailable as error:
        raise _explained(client, error) from error


def _explained(client: Client, error: Unavailable) -> Unavailable:
    context = click.get_current_context(silent=True)
    home = context.find_root().obj.home if context is not None else None
    folder = Path(home) if home else state_folder(os.environ)
    start = f"start it: seatrial up --home {shlex.quote(str(folder))}" if home else "start it: seatrial up"
    stack = local_stack(folder) if client.is_local(folder) else None
    if stack is None:
        return error
    if not stack.up and not stack.running:
        return Unavailable(f"{error.what}; the stack of {folder} is not running", hint=start, reason="stack_down")
    if stack.down:
        where = f"{', '.join(stack.down)} of the stack of {folder} are not running" if stack.down[1:] else f"{stack.down[0]} is not running"
        log = folder / "logs" / f"{stack.down[0]}.log"
        hint = f"seatrial up restarts it; see the log {log}" if stack.up else start
        return Unavailable(f"{error.what}; {where}", hint=hint, reason="service_down")
    hint = f"all services run; see the log: {folder / 'logs' / 'control.log'}"
    return Unavailable(error.what, hint=hint, reason=error.reason)


def _problems(client: Client) -> PlatformHealth | None:
    """Return the problems; None for a key that may not see them."""
    try:
        return client.problems()
    except NotAuthorised:
        return None


def _counted(found: PlatformHealth) -> str:
    counts = {name: sum(one.severity == name for one in found.problems) for name in ("critical", "warning", "notice")}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"problems: {said}; see: seatrial status --problems" if said else "problems: none"


def _show_problem(problem: PlatformProblem) -> None:
    since = f", since {ago(problem.since).removesuffix(' ago')}" if problem.since else ""
    head = cell_text(problem.severity) + f" {problem.kind.replace('_', ' ')}: {plain(problem.subject)}{since}"
    console().print(head, soft_wrap=True)
    click.echo(f"  why:  {flowing(problem.cause)}")
    click.echo(f"  next: {plain(problem.action)}")
