"""endpoints, rollouts, rollback."""

from __future__ import annotations

import click

from seatrial.cli.output import ago, as_json, client_of, part, say_json, short, show_pairs, show_table
from seatrial.words import Cohort, Endpoint, Rollout


@click.command()
@as_json
@click.pass_context
def endpoints(ctx: click.Context, as_json: bool) -> None:
    """Show endpoints, what serves behind them and how its engine does."""
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
        )
        for one in found
    )
    show_table(("ENDPOINT", "STABLE", "ENGINE", "CANDIDATE", "SHARE", "ENGINE"), rows, empty="no endpoints; seatrial submit makes one")


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
    evidence = "beyond all numbers" if one.verdict.e_value is None else f"{one.verdict.e_value:.3g}"
    show_pairs((("verdict", one.verdict.decision), ("because", one.verdict.reason), ("e-value", evidence)))
    rows = (("stable", *_cohort(one.verdict.stable)), ("candidate", *_cohort(one.verdict.candidate)))
    show_table(("COHORT", "CONVERSATIONS", "BAD", "ANSWERS", "ERRORS", "SLOW", "LOOPS", "VOTES", "TTFT P95"), rows, empty="")


def _cohort(cohort: Cohort) -> tuple[object, ...]:
    ttft = "-" if cohort.ttft_p95_s is None else f"{cohort.ttft_p95_s:.3f} s"
    votes = f"+{cohort.thumbs_up} -{cohort.thumbs_down}"
    return cohort.conversations, cohort.bad, cohort.completions, cohort.errors, cohort.slow, cohort.loops, votes, ttft
