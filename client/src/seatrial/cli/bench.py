"""bench: run, show, compare, list, power, study, answers, cancel."""

from __future__ import annotations

from typing import Literal

import click

from seatrial.cli import INTERRUPTED
from seatrial.cli.numbers import ago, duration, part
from seatrial.cli.options import INNER_PART, PART, PENALTY, POINTS, TEMPERATURE, TOP_P, Numbers
from seatrial.cli.output import as_json, client_of, flowing, plain, say_json, short, show_pairs, show_table
from seatrial.client import Client
from seatrial.paths import looks_like_path, resolved
from seatrial.types import Answer, Benchmark

_SUITE_FILES = (".jsonl", ".jsonl.gz")


class DefaultGroup(click.Group):
    """A group whose first word may be left out: `seatrial bench chat` is `seatrial bench run chat`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `run` first where no command stands."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


EXAMPLES = """\b
Examples:
  seatrial bench ENDPOINT --suite humaneval -n 20 --temperature 0.2,0.8 --watch
  seatrial bench show ID
"""


@click.group(cls=DefaultGroup, epilog=EXAMPLES)
def bench() -> None:
    """Benchmark models, look at the results problem by problem, and compare them."""


@bench.command()
@click.argument("target", metavar="MODEL_OR_ENDPOINT")
@click.option("--suite", default="harbour", show_default=True, help="A suite's name, or a .jsonl file on the platform's machine.")
@click.option("--samples", "-n", type=click.IntRange(1, 1000), default=1, show_default=True, help="Answers to each problem at each point.")
@click.option("--temperature", "-t", type=Numbers(TEMPERATURE), default="0", show_default=True, help="Temperatures, separated by commas.")
@click.option(
    "--frequency-penalty", type=Numbers(PENALTY), default="0", show_default=True, help="Frequency penalties, separated by commas."
)
@click.option("--top-p", type=TOP_P, default=1.0, show_default=True, help="Part of the probability that answers are drawn from.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=None, help="Longest answer, in tokens (default: the suite's own).")
@click.option(
    "--form",
    type=click.Choice(["completion", "chat", "own"]),
    default="own",
    show_default=True,
    help="The prompt raw, as a user's message, or the model's own: chat where it has a chat template.",
)
@click.option("--watch", "-w", "watched", is_flag=True, help="Show how far it is until it ends, then the results.")
@as_json
@click.pass_context
def run(
    ctx: click.Context,
    *,
    target: str,
    suite: str,
    samples: int,
    temperature: tuple[float, ...],
    frequency_penalty: tuple[float, ...],
    top_p: float,
    max_tokens: int | None,
    form: Literal["completion", "chat", "own"],
    watched: bool,
    as_json: bool,
) -> None:
    """Benchmark what an endpoint serves, ORG/MODEL, or a version (8 characters are enough).

    Prints the benchmark's id at once. With --watch it exits 0 when it is done and not worse than its baseline, else 1.
    """
    client = client_of(ctx)
    made = client.benchmarks.start(
        _absolute(target),
        suite=_absolute(suite),
        samples=samples,
        temperature=temperature,
        frequency_penalty=frequency_penalty,
        top_p=top_p,
        max_tokens=max_tokens or 0,
        form=form,
    )
    if watched:
        ctx.exit(_watch(client, made, as_json=as_json))
    if as_json:
        say_json(made)
        return
    click.echo(made.id)
    click.echo(f"see it: seatrial bench show {made.id} --watch", err=True)


@bench.command()
@click.argument("benchmark", metavar="ID")
@click.option("--watch", "-w", "watched", is_flag=True, help="Wait until it ends.")
@click.option("--all", "-a", "whole", is_flag=True, help="Every problem, also those that were always solved.")
@as_json
@click.pass_context
def show(ctx: click.Context, benchmark: str, *, watched: bool, whole: bool, as_json: bool) -> None:
    """Show a benchmark: its numbers, the grid, and each problem that was not always solved."""
    client = client_of(ctx)
    one = client.benchmarks.get(benchmark)
    if watched:
        ctx.exit(_watch(client, one, as_json=as_json, whole=whole))
    _show(client, one, as_json=as_json, whole=whole)


@bench.command()
@click.argument("candidate", metavar="A")
@click.argument("baseline", metavar="B")
@click.option("--margin", type=PART, default=0.05, show_default=True, help="How much lower A may score and still pass.")
@as_json
@click.pass_context
def compare(ctx: click.Context, candidate: str, baseline: str, *, margin: float, as_json: bool) -> None:
    """Hold benchmark A against benchmark B, paired problem by problem."""
    found = client_of(ctx).benchmarks.compare(candidate, baseline, margin=margin)
    if as_json:
        say_json(found)
        return
    from seatrial.cli.plots import show_comparison  # noqa: PLC0415 - only where something is drawn

    show_comparison(found.found)


@bench.command(name="list")
@click.option("--endpoint", "-e", help="Only this endpoint.")
@click.option("--version", help="Only this version (8 characters are enough).")
@click.option("--state", type=click.Choice(["running", "done", "failed"]), help="Only those in this state.")
@click.option("--trigger", type=click.Choice(["gate", "hand", "schedule"]), help="Only those that ran for this reason.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@as_json
@click.pass_context
def list_(
    ctx: click.Context, *, endpoint: str | None, version: str | None, state: str | None, trigger: str | None, limit: int, as_json: bool
) -> None:
    """List benchmarks, newest first."""
    found = client_of(ctx).benchmarks.list(endpoint=endpoint, version=version, state=state, trigger=trigger, limit=limit)
    if as_json:
        say_json(found)
        return
    rows = (
        (one.id, one.endpoint or short(one.version), one.suite, one.trigger, one.state, part(one.numbers.get("pass_at_1")),
         one.decision or "-", ago(one.started_at))
        for one in found
    )  # fmt: skip
    show_table(("BENCHMARK", "OF", "SUITE", "WHY", "STATE", "PASS@1", "VERDICT", "WHEN"), rows, empty="no benchmarks")


@bench.command()
@click.option("--problems", type=click.IntRange(min=1), required=True, help="Problems of the suite (HumanEval has 164).")
@click.option("--samples", "-n", type=click.IntRange(min=1), help="Answers to each problem: says how many points they catch.")
@click.option("--points", type=POINTS, help="A drop in points: says how many answers catch it.")
@click.option("--pass-rate", type=INNER_PART, help="About how much passes (default: the worst case).")
@click.option("--power", type=INNER_PART, default=0.9, show_default=True, help="How surely it is caught.")
@as_json
@click.pass_context
def power(
    ctx: click.Context, *, problems: int, samples: int | None, points: float | None, pass_rate: float | None, power: float, as_json: bool
) -> None:
    """Say how small a drop can be detected, before anything is run."""
    if (samples is None) == (points is None):
        raise click.UsageError("give either --samples or --points")
    told = client_of(ctx).benchmarks.power(problems, samples=samples, points=points, pass_rate=pass_rate, power=power)
    if as_json:
        say_json(told)
        return
    asked = f"{told.samples} samples of {told.problems} problems"
    click.echo(f"{asked} detect a drop of {told.points:.1f} points in {told.power:.0%} of cases (alpha 5 %)")


@bench.command()
@click.argument("benchmark", metavar="ID")
@click.option("--policies", default="random,mean_logprob,voting", show_default=True, help="Ways of choosing, separated by commas.")
@click.option("--best-of", default="1,4,8", show_default=True, help="Among how many answers is chosen, separated by commas.")
@click.option("--ranker", metavar="URL", default="", help="An OpenAI-compatible endpoint whose model ranks answers (operators only).")
@click.option("--ranker-model", metavar="NAME", default="", help="That model's name.")
@as_json
@click.pass_context
def study(ctx: click.Context, benchmark: str, *, policies: str, best_of: str, ranker: str, ranker_model: str, as_json: bool) -> None:
    """Compare ways of choosing one of several answers, on the rows of a benchmark that is done. Waits for the result."""
    chosen = [*dict.fromkeys([*policies.split(","), *(["ranker"] if ranker else [])])]
    try:
        counts = [int(piece) for piece in best_of.split(",")]
    except ValueError as error:
        raise click.BadParameter("write whole numbers with commas: 1,4,8", param_hint="--best-of") from error
    client = client_of(ctx)
    made = client.benchmarks.study(benchmark, policies=chosen, best_of=counts, ranker_url=ranker, ranker_model=ranker_model)
    try:
        found = client.benchmarks.watch_study(made)
    except KeyboardInterrupt:
        click.echo(f"interrupted; the study goes on and will stand in: seatrial bench show {benchmark} --json", err=True)
        ctx.exit(INTERRUPTED)
    if as_json:
        say_json(found)
    else:
        from seatrial.cli.plots import show_study  # noqa: PLC0415 - only where something is drawn

        show_study(benchmark, found)
    ctx.exit(0 if found.get("state") == "done" else 1)


@bench.command()
@click.argument("benchmark", metavar="ID")
@click.option("--problem", "-p", help="Only this problem (its task id).")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many at most.")
@as_json
@click.pass_context
def answers(ctx: click.Context, benchmark: str, *, problem: str | None, limit: int, as_json: bool) -> None:
    """Show answers as they were given, and what became of each."""
    found = client_of(ctx).benchmarks.answers(benchmark, problem=problem, limit=limit)
    if as_json:
        say_json(found)
        return
    for answer in found:
        _answer(answer)


@bench.command()
@click.argument("benchmark", metavar="ID")
@as_json
@click.pass_context
def cancel(ctx: click.Context, benchmark: str, as_json: bool) -> None:
    """Cancel a benchmark that runs."""
    cancelled = client_of(ctx).benchmarks.cancel(benchmark)
    say_json(cancelled) if as_json else click.echo(f"{cancelled.id}: {plain(cancelled.reason)}")


def _absolute(text: str) -> str:
    """Make a folder's or file's path absolute: the platform does not know this shell's folder."""
    is_path = looks_like_path(text) or text.endswith(_SUITE_FILES)
    return str(resolved(text)) if is_path else text


def _watch(client: Client, one: Benchmark, *, as_json: bool, whole: bool = False) -> int:
    """Follow a benchmark to its end and show it. Returns the exit code."""
    from seatrial.cli.plots import follow  # noqa: PLC0415 - only where something is drawn

    if not as_json:
        click.echo(one.id)
    try:
        last = follow(client.benchmarks.watch(one.id), as_json=as_json)
    except KeyboardInterrupt:
        click.echo(f"interrupted; the benchmark goes on: seatrial bench show {one.id} --watch", err=True)
        return INTERRUPTED
    if not as_json:
        _show(client, last, as_json=False, whole=whole)
    return 0 if last.state == "done" and last.decision != "fail" else 1


def _show(client: Client, one: Benchmark, *, as_json: bool, whole: bool) -> None:
    problems = client.benchmarks.problems(one.id) if one.state == "done" else ()
    if as_json:
        say_json({"benchmark": one, "problems": problems})
        return
    show_pairs((
        ("benchmark", one.id),
        ("model", one.model),
        ("version", one.version),
        ("endpoint", one.endpoint),
        ("suite", f"{one.suite} ({one.form}), {one.samples} samples a problem"),
        ("prompt", one.prompt),
        ("why", f"{one.trigger} {one.asked_by}".strip()),
        ("state", one.state if one.ended else f"{one.state}, {part(one.progress)}"),
        ("waiting", one.waiting.message if one.waiting else None),
        ("verdict", one.decision),
        ("because", one.reason),
        ("baseline", one.baseline),
        ("run", one.run),
        ("history", one.history),
    ))  # fmt: skip
    if one.state == "done":
        from seatrial.cli.plots import show_scores  # noqa: PLC0415 - only where something is drawn

        show_scores(one, problems, whole=whole)


def _answer(answer: Answer) -> None:
    flaws = f", {', '.join(answer.flaws)}" if answer.flaws else ""
    click.echo(
        f"{plain(answer.task_id)} [{answer.sampling}] #{answer.index}: {answer.outcome}{flaws}, "
        f"{answer.completion_tokens} tokens in {duration(answer.seconds)}, sandbox {answer.isolation or 'unknown'}"
    )
    if answer.detail:
        click.echo(f"  first failing check: {plain(answer.detail)}")
    click.echo("".join(f"  | {line}\n" for line in flowing(answer.text).splitlines()))
