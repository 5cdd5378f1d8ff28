"""endpoints, rollouts, rollback."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Any

import click

from seatrial.cli.numbers import ago, duration, number, part
from seatrial.cli.options import PENALTY, TEMPERATURE, TOP_P, Number
from seatrial.cli.output import as_json, client_of, say_json, short, show_pairs, show_table
from seatrial.types import Cohort, Endpoint, Rollout


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def endpoints(ctx: click.Context, as_json: bool) -> None:
    """Show endpoints, what serves behind them and how its engine does; `set` changes what one promises, `remove` ends one."""
    if ctx.invoked_subcommand is not None:
        return
    found = client_of(ctx).endpoints.list()
    if as_json:
        say_json(found)
        return
    rows = (
        (
            one.name,
            short(one.stable),
            _phase(one, one.stable),
            short(one.candidate),
            part(one.share) if one.candidate else "-",
            _phase(one, one.candidate),
            _promises(one),
        )
        for one in found
    )
    columns = ("ENDPOINT", "STABLE", "ENGINE", "CANDIDATE", "SHARE", "ENGINE", "POLICY")
    show_table(columns, rows, empty="no endpoints; seatrial submit makes one")


class _Left(Enum):
    """`none`: the default is taken away."""

    TO_ENGINE = "none"


class _Default(click.ParamType[float | _Left]):
    """A number, or `none` to leave it to the engine again."""

    name = "number|none"

    def __init__(self, number: Number) -> None:
        self._number = number

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | _Left:
        """Return the number, or `_Left.TO_ENGINE`: None means that the option was not given."""
        return _Left.TO_ENGINE if str(value).lower() == "none" else self._number.convert(value, param, ctx)


@endpoints.command(name="set")
@click.argument("name")
@click.option("--temperature", type=_Default(TEMPERATURE), help="For requests that do not say one; none: the engine's own.")
@click.option("--top-p", type=_Default(TOP_P), help="For requests that do not say one; none: the engine's own.")
@click.option("--frequency-penalty", type=_Default(PENALTY), help="For requests that do not say one; none: the engine's own.")
@click.option("--best-of", type=click.IntRange(1, 16), help="Draw so many answers and send one; 1: no choosing.")
@click.option("--policy", type=click.Choice(["random", "mean_logprob"]), help="How that one is chosen.")
@click.option("--on-regression", type=click.Choice(["alert", "rollback"]), help="What a scheduled benchmark that finds one does.")
@as_json
@click.pass_context
def set_(ctx: click.Context, /, *, name: str, as_json: bool, **given: Any) -> None:
    """Set what endpoint NAME promises (operators only). What is not given stays; gateways follow within a second."""
    fields = {field: None if value is _Left.TO_ENGINE else value for field, value in given.items() if value is not None}
    if not fields:
        raise click.UsageError("give at least one of the options")
    changed = client_of(ctx).endpoints.set_policy(name, **fields)
    say_json(changed) if as_json else click.echo(f"{changed.name}: {_promises(changed)}")


@endpoints.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_context
def remove(ctx: click.Context, name: str, yes: bool, as_json: bool) -> None:
    """Stop serving endpoint NAME (operators only). Usage, votes and history are kept; a later submission creates the endpoint again."""
    if not yes:
        _confirm(ctx, name)
    was = client_of(ctx).endpoints.remove(name)
    say_json(was) if as_json else click.echo(f"{was.name} is removed; it served {short(was.stable)}")


def _confirm(ctx: click.Context, name: str) -> None:
    """Ask, and end the command with 1 on a no."""
    if sys.stdin is None or sys.stdout is None:
        raise click.UsageError("the confirmation needs standard input and output, and one of them is closed; give --yes")
    if not click.confirm(f"{name} will answer 404 to everybody who calls it. Remove it?", err=True):
        click.echo(f"{name} is kept", err=True)
        ctx.exit(1)


def _promises(one: Endpoint) -> str:
    policy = one.policy
    sampling = (("temperature", policy.temperature), ("top_p", policy.top_p), ("frequency_penalty", policy.frequency_penalty))
    said = [f"{name} {value:g}" for name, value in sampling if value is not None]
    if policy.best_of > 1:
        said.append(f"best of {policy.best_of} by {policy.policy}")
    return ", ".join([*said, f"{policy.on_regression} on regression"])


@click.command()
@click.argument("what", required=False, metavar="[ENDPOINT|ID]")
@as_json
@click.pass_context
def rollouts(ctx: click.Context, what: str | None, as_json: bool) -> None:
    """Show rollouts, newest first, of all endpoints or of ENDPOINT; or one by its ID with its verdict."""
    client = client_of(ctx)
    if what is not None and what not in {one.name for one in client.endpoints.list()}:
        one = client.rollouts.get(what)
        say_json(one) if as_json else _show(one)
        return
    found = client.rollouts.list(what)
    if as_json:
        say_json(found)
        return
    rows = (
        (one.id, one.endpoint, short(one.candidate), short(one.stable), one.state, part(one.share),
         one.verdict.decision if one.verdict else "-", ago(one.started_at))
        for one in found
    )  # fmt: skip
    show_table(("ROLLOUT", "ENDPOINT", "CANDIDATE", "STABLE", "STATE", "SHARE", "VERDICT", "WHEN"), rows, empty="no rollouts")


@click.command()
@click.argument("endpoint")
@as_json
@click.pass_context
def rollback(ctx: click.Context, endpoint: str, as_json: bool) -> None:
    """Take ENDPOINT's candidate back; with no rollout on its way, bring its previous version again."""
    done = client_of(ctx).endpoints.rollback(endpoint)
    if as_json:
        say_json(done)
    elif done.rollout:
        click.echo(f"rollout {done.rollout.id} goes back; {short(done.rollout.stable)} keeps serving {endpoint}")
        click.echo(f"see it: seatrial rollouts {done.rollout.id}", err=True)
    elif done.submission:
        click.echo(f"{done.submission.id} brings {done.submission.model} back to {endpoint}")
        click.echo(f"watch it: seatrial status {done.submission.id} --watch", err=True)


def _phase(one: Endpoint, version: str | None) -> str:
    return next((engine.phase for engine in one.engines if engine.version == version), "-")


def _show(one: Rollout) -> None:
    show_pairs((
        ("rollout", one.id),
        ("endpoint", one.endpoint),
        ("candidate", one.candidate),
        ("stable", one.stable),
        ("submission", one.submission),
        ("state", one.state),
        ("share", part(one.share)),
        ("reason", one.reason),
    ))  # fmt: skip
    if one.verdict is None:
        click.echo("no verdict yet")
        return
    evidence = "beyond all numbers" if one.verdict.e_value is None else number(one.verdict.e_value)
    show_pairs((("verdict", one.verdict.decision), ("because", one.verdict.reason), ("e-value", evidence)))
    rows = (("stable", *_cohort(one.verdict.stable)), ("candidate", *_cohort(one.verdict.candidate)))
    show_table(("COHORT", "CONVERSATIONS", "BAD", "ANSWERS", "ERRORS", "SLOW", "LOOPS", "NONSENSE", "VOTES", "TTFT P95"), rows, empty="")


def _cohort(cohort: Cohort) -> tuple[object, ...]:
    ttft = duration(cohort.ttft_p95_s)
    votes = f"+{cohort.thumbs_up} -{cohort.thumbs_down}"
    counts = (cohort.conversations, cohort.bad, cohort.completions, cohort.errors, cohort.slow, cohort.loops, cohort.nonsense)
    return (*(number(count) for count in counts), votes, ttft)
