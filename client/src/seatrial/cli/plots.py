"""Benchmarks drawn in a terminal: bars with intervals, problems, comparisons, studies."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from seatrial.cli.numbers import chance, duration, measure, part, points
from seatrial.cli.output import fresh_console, note_waiting, plain, say_json, show_pairs, show_table
from seatrial.types import Benchmark, Problem

WIDTH = 30
_MOST_PROBLEMS = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float | None, width: int = WIDTH) -> str:
    """Return a bar for a part of one, in eighths of a character."""
    if value is None:
        return ""
    eighths = round(min(1.0, max(0.0, value)) * width * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(width)


def interval(low: float | None, value: float | None, high: float | None, width: int = WIDTH) -> str:
    """Return `├──●──┤` on a scale from 0 to 1."""
    if value is None or low is None or high is None:
        return bar(value, width)
    places = [round(min(1.0, max(0.0, part)) * (width - 1)) for part in (low, value, high)]
    cells = ["·"] * width
    cells[places[0] : places[2] + 1] = "─" * (places[2] - places[0] + 1)
    cells[places[0]], cells[places[2]], cells[places[1]] = "├", "┤", "●"
    return "".join(cells)


def follow(updates: Iterator[Benchmark], *, as_json: bool) -> Benchmark:
    """Show how far a benchmark is until it ends; return its end."""
    console = fresh_console()
    last: Benchmark | None = None
    if as_json or not console.is_terminal:
        for current in updates:
            if as_json and current != last:
                say_json(current)
            if not as_json:
                note_waiting(last.waiting if last else None, current.waiting)
            last = current
    else:
        columns = (TextColumn("{task.description}"), BarColumn(WIDTH), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("waiting for a runner", total=1.0)
            for last in updates:
                progress.update(task, completed=last.progress, description=_at(last))
    if last is None:
        raise RuntimeError("a watched benchmark yields at least once")
    return last


def _at(one: Benchmark) -> str:
    return plain(one.waiting.message) if one.waiting else f"{one.suite} on {one.endpoint or one.version[:12]}"


def show_scores(one: Benchmark, problems: Sequence[Problem], *, whole: bool) -> None:
    """Print the grid with intervals, then the problems that were not always solved (or all)."""
    keys = [point.key for point in one.grid]
    rows = [_point(one.numbers, key if len(keys) > 1 else "", key) for key in keys]
    click.echo()
    show_table(("SAMPLING", "PASS@1", "95 %", "0 % TO 100 %", "BEST PASS@K", "LOOPS", "NONSENSE", "TIME"), rows, empty="no numbers")
    unsolved = [problem for problem in problems if whole or problem.rate != 1.0]
    click.echo()
    click.echo(f"{len({p.task_id for p in problems})} problems; {len(problems) - len(unsolved)} of {len(problems)} rows always solved")
    shown = sorted(unsolved, key=_worst_first)[: None if whole else _MOST_PROBLEMS]
    lines = (
        (problem.task_id, problem.sampling, f"{problem.passed}/{problem.samples}", bar(problem.rate, 10), part(problem.baseline),
         problem.loops or "", plain(problem.detail)[:200])
        for problem in shown
    )  # fmt: skip
    if shown:
        show_table(("PROBLEM", "SAMPLING", "PASSED", "", "BASELINE", "LOOPS", "FIRST FAILING CHECK"), lines, empty="")
    if len(shown) < len(unsolved):
        click.echo(f"{len(unsolved) - len(shown)} more: seatrial bench show {one.id} --all", err=True)
    click.echo(f"the answers: seatrial bench answers {one.id} --problem PROBLEM", err=True)


def show_comparison(found: Mapping[str, Any]) -> None:
    """Print a paired comparison: verdict, difference with its interval on a scale around 0, problems lost and won."""
    show_pairs((
        ("verdict", found.get("decision")),
        ("because", found.get("reason")),
        ("candidate", part(found.get("candidate"))),
        ("baseline", part(found.get("baseline"))),
        ("difference", points(found.get("difference"))),
        ("95 % bounds", f"{points(found.get('low'))} to {points(found.get('high'))}, one-sided each"),
        ("margin", points(found.get("margin"))),
        ("p, were it worse by the margin", chance(found.get("p_value"))),
        ("problems", found.get("problems")),
    ))  # fmt: skip
    click.echo(f"\nworse {around_zero(found)} better")
    for name in ("lost", "won"):
        tasks = [plain(str(task)) for task in found.get(name) or ()]
        click.echo(f"{name}: {len(tasks)}{': ' + ', '.join(tasks[:_MOST_PROBLEMS]) if tasks else ''}")


def around_zero(found: Mapping[str, Any], width: int = 41) -> str:
    """Return the difference's interval on a scale that is as wide as it needs, with 0 and the margin marked."""
    low, value, high = (float(found.get(name) or 0.0) for name in ("low", "difference", "high"))
    margin = float(found.get("margin") or 0.0)
    reach = max(abs(low), abs(high), margin, 0.01) * 1.1

    def place(at: float) -> int:
        return round((at + reach) / (2 * reach) * (width - 1))

    cells = ["·"] * width
    cells[place(low) : place(high) + 1] = "─" * (place(high) - place(low) + 1)
    cells[place(-margin)] = "!"
    cells[place(0)] = "0"
    cells[place(low)], cells[place(high)], cells[place(value)] = "├", "┤", "●"
    return "".join(cells)


def show_study(benchmark: str, found: Mapping[str, Any]) -> None:
    """Print a study's table as it came, scores as bars."""
    if found.get("state") != "done":
        click.echo(f"the study failed: {plain(str(found.get('reason', '')))}", err=True)
        return
    rows: list[dict[str, Any]] = list(found.get("rows", ()))
    columns = list(dict.fromkeys(name for row in rows for name in row if not isinstance(row[name], (list, dict))))
    lines = [[_cell(name, row.get(name)) for name in columns] for row in rows]
    show_table([name.upper().replace("_", " ") for name in columns], lines, empty=f"nothing to compare in {benchmark}")
    if found.get("advice"):
        click.echo(f"\nadvice: {plain(str(found['advice']))}")
    sys.stdout.flush()
    click.echo("apply a choice: seatrial endpoints set ENDPOINT --temperature T --best-of K --policy NAME", err=True)


def _point(numbers: Mapping[str, Any], key: str, shown: str) -> tuple[Any, ...]:
    suffix = f"/{key}" if key else ""

    def number(name: str) -> float | None:
        value = numbers.get(f"{name}{suffix}")
        return float(value) if isinstance(value, (int, float)) else None

    low, score, high = number("low"), number("pass_at_1"), number("high")
    best = max((k for k in (2, 5, 10, 20) if number(f"pass_at_{k}") is not None), default=0)
    at_best = f"@{best} {part(number(f'pass_at_{best}'))}" if best else "-"
    seconds = number("median_seconds")
    bounds = f"{part(low)} to {part(high)}" if low is not None else "-"
    return (
        shown, part(score), bounds, interval(low, score, high), at_best, part(number("loop_rate")), part(number("nonsense_rate")),
        duration(seconds),
    )  # fmt: skip


def _worst_first(problem: Problem) -> tuple[float, float, str]:
    rate = problem.rate if problem.rate is not None else 0.0
    return rate - (problem.baseline if problem.baseline is not None else rate), rate, problem.task_id


def _cell(name: str, value: Any) -> str:
    return measure(name, value) if isinstance(value, float) else plain("-" if value is None else str(value))
