"""A submission as it happens: a live table on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from seatrial.cli import INTERRUPTED
from seatrial.cli.numbers import duration, headline
from seatrial.cli.output import COLOURS, fresh_console, note_waiting, plain, say_json
from seatrial.client import Client
from seatrial.types import STEPS, Step, Submission, Waiting

_WIDE = 72
"""Columns below which a message would be folded in the middle of an id or a URL."""
_MARKS = {"done": "✓", "reused": "✓", "failed": "✗", "retrying": "↻"}


def watch(client: Client, submission: str, *, as_json: bool) -> int:
    """Show a submission until it ends. Returns the exit code: 0 when it serves. Ctrl-C leaves it running."""
    console = fresh_console()
    updates = client.submissions.watch(submission)
    try:
        last = _as_json(updates) if as_json else _live(console, updates) if console.is_terminal else _lines(updates)
    except KeyboardInterrupt:
        click.echo(f"interrupted; the submission goes on: seatrial status {submission} --watch", err=True)
        return INTERRUPTED
    if not as_json:
        show_end(client, console, last)
    return 0 if last.state == "serving" else 1


def show_end(client: Client, console: Console, submission: Submission) -> None:
    """Say how it ended and what to do next."""
    body = _serving(client, submission) if submission.state == "serving" else _otherwise(submission)
    head = f"{submission.state}: {plain(submission.model)} on {submission.endpoint}"
    if console.is_terminal:
        console.print(Text(f"\n{head.replace('_', ' ')}", style=f"bold {COLOURS.get(submission.state, '')}".strip()), soft_wrap=True)
    else:
        click.echo(head)
    click.echo(body)  # commands and URLs are not folded, so that they can be copied


def show_steps(console: Console, submission: Submission) -> None:
    """Print the steps: a table where the screen is wide enough, else a line per step and its message whole on the next."""
    if console.is_terminal and console.width >= _WIDE:
        console.print(steps_table(submission))
        return
    for step in submission.steps:
        elapsed = duration(((step.ended_at or datetime.now(UTC)) - step.started_at).total_seconds())
        click.echo(f"{_MARKS.get(step.state, '•')} {step.name}  {elapsed}")
        if said := _said(step):
            click.echo(f"    {said}")


def steps_table(submission: Submission, spinner: Spinner | None = None, *, pending: bool = True) -> Table:
    """Return the steps as a table: mark, name, time, progress or message."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=8)
    table.add_column(overflow="fold")
    known = {step.name: step for step in submission.steps}
    for name in (*STEPS, *(name for name in known if name not in STEPS)):
        if name in known:
            table.add_row(*_row(known[name], spinner))
        elif pending and not submission.ended:
            table.add_row(Text("·", "dim"), Text(name, "dim"), "", "")
    return table


def _row(step: Step, spinner: Spinner | None) -> tuple[RenderableType, ...]:
    colour = COLOURS.get(step.state, "")
    running = step.state == "running"
    mark: RenderableType = spinner if running and spinner else Text(_MARKS.get(step.state, "•"), colour)
    elapsed = duration(((step.ended_at or datetime.now(UTC)) - step.started_at).total_seconds())
    said = Text(_said(step), "red" if step.state == "failed" else "")
    if running and 0 < step.progress < 1:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=step.progress, width=20), f"{step.progress * 100:.0f} %", said)
        return mark, Text(step.name, "bold"), elapsed, bar
    return mark, Text(step.name, "bold" if running else ""), elapsed, said


def _said(step: Step) -> str:
    """Return what a step says, with its attempt from the second on."""
    words = []
    if step.attempt > 1:
        words.append(f"retry {step.attempt - 1}")
    if step.state == "reused":
        words.append("was done before")
    if step.message:
        words.append(plain(step.message))
    return ": ".join(words)


def _live(console: Console, updates: Iterator[Submission]) -> Submission:
    spinner = Spinner("dots", style="cyan")
    last: Submission | None = None
    with Live(Text("waiting for the platform"), console=console, refresh_per_second=8) as live:
        for last in updates:
            live.update(_screen(last, spinner))
    return _ended(last)


def _screen(submission: Submission, spinner: Spinner) -> RenderableType:
    until = submission.updated_at if submission.ended else datetime.now(UTC)
    took = duration((until - submission.created_at).total_seconds())
    head = Text.assemble(
        (plain(submission.model), "bold"), " → ", (submission.endpoint, "bold"), f"   {submission.state.replace('_', ' ')}, {took}"
    )
    if not submission.steps and not submission.ended:
        return Group(head, _why(submission) or Text("waiting for a runner", "dim"))
    if why := _why(submission):
        return Group(head, steps_table(submission, spinner), why)
    return Group(head, steps_table(submission, spinner))


def _why(submission: Submission) -> Text | None:
    """Return why no process drives the submission, where the platform says so."""
    waiting = submission.waiting
    return Text(plain(waiting.message), "yellow" if waiting.stuck else "dim") if waiting else None


def _lines(updates: Iterator[Submission]) -> Submission:
    shown: dict[str, tuple[str, int, str]] = {}
    last: Submission | None = None
    waited: Waiting | None = None
    for last in updates:
        note_waiting(waited, last.waiting)
        waited = last.waiting
        for step in last.steps:
            now = (step.state, step.attempt, "" if step.state == "running" else step.message)
            if shown.get(step.name) != now:
                shown[step.name] = now
                took = f" in {duration((step.ended_at - step.started_at).total_seconds())}" if step.ended_at else ""
                said = _said(step)
                click.echo(f"{step.name}: {step.state}{took}{f' ({said})' if said else ''}")
    return _ended(last)


def _as_json(updates: Iterator[Submission]) -> Submission:
    last: Submission | None = None
    for current in updates:
        if current != last:
            say_json(current)
        last = current
    return _ended(last)


def _ended(last: Submission | None) -> Submission:
    if last is None:
        raise RuntimeError("a watched submission yields at least once")
    return last


def _serving(client: Client, submission: Submission) -> str:
    gateway = client.gateway_url
    return "\n".join((
        "Talk to it:",
        f'  seatrial chat {submission.endpoint} "hello"',
        "See what users say of it:",
        f"  seatrial feedback list --submission {submission.id}",
        "From Python, with any key of the platform:",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{gateway}/v1", api_key="st-...")',
        "  client.chat.completions.create(",
        f'      model="{submission.endpoint}", messages=[{{"role": "user", "content": "hello"}}])',
    ))  # fmt: skip


def _otherwise(submission: Submission) -> str:
    lines = [plain(submission.message) or submission.state.replace("_", " ")]
    if submission.reason:
        lines.append(f"reason: {plain(submission.reason)}")
    lines += [f"{report.kind}: {_numbers(report.numbers)}" for report in submission.reports if report.decision == "fail" and report.numbers]
    if submission.hint:
        lines.append(f"next: {plain(submission.hint)}")
    return "\n".join(lines)


def _numbers(numbers: dict[str, object]) -> str:
    return plain(headline({name: float(value) for name, value in numbers.items() if isinstance(value, (int, float))}))
