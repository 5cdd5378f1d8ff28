"""How things are shown: JSON for programs, tables for people, and never a control character of somebody else's."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seatrial.client import Client
from seatrial.types import Waiting

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
"""Terminal escape sequences (ECMA-48): colours and cursor moves, window titles, single letters."""
_BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}

PROSE = frozenset({"WHAT IT SAYS", "COMMENT", "NOTE", "FIRST FAILING CHECK", "CAUSE", "POLICY"})
"""Columns that may wrap. Everything else is an id, a name or a number, which people copy or compare."""
_PROSE_WIDTH = 24
_GAP = 2

COLOURS = {
    "critical": "red",
    "warning": "yellow",
    "notice": "cyan",
    "serving": "green",
    "promoted": "green",
    "done": "green",
    "reused": "green",
    "ready": "green",
    "pass": "green",
    "refused": "red",
    "failed": "red",
    "fail": "red",
    "rolled_back": "yellow",
    "rolling_back": "yellow",
    "retrying": "yellow",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
}

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document (JSON lines when following).")


def client_of(ctx: click.Context) -> Client:
    """Return the client that the options ask for, closed when the command ends."""
    given = ctx.find_root().obj
    return ctx.with_resource(Client(given.url, given.key, home=given.home))


def plain(text: str) -> str:
    """Return `text` without escape sequences' control characters and bidirectional overrides; white space becomes a space."""
    return " ".join(flowing(text).split())


def flowing(text: str) -> str:
    """Return `text` as `plain` does, but with its line breaks and tabs kept."""
    text = _ESCAPES.sub("", text)
    return "".join(char for char in text if char in "\n\t" or (unicodedata.category(char) not in {"Cc", "Cs"} and char not in _BIDI))


@cache
def console() -> Console:
    """Return the console on stdout."""
    return Console(highlight=False, soft_wrap=False)


def fresh_console() -> Console:
    """Return a console on the present stdout (tests put others there)."""
    console.cache_clear()
    return console()


def say_json(thing: Any) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(document(thing), ensure_ascii=True))


def document(thing: Any) -> Any:
    """Return dataclasses as JSON values, times as ISO 8601; a key's absent secret is left out."""
    if isinstance(thing, (list, tuple)):
        return [document(item) for item in thing]
    if hasattr(thing, "__dataclass_fields__"):
        return document(asdict(thing))
    if isinstance(thing, dict):
        return {name: document(value) for name, value in thing.items() if not (name == "secret" and value is None)}
    return thing.isoformat().replace("+00:00", "Z") if isinstance(thing, datetime) else thing


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table, or `empty` when there are no rows."""
    lines = list(rows)
    if not lines:
        click.echo(empty)
        return
    out = fresh_console()
    if not out.is_terminal:  # whole values, for grep and cut
        click.echo("\t".join(columns))
        for line in lines:
            click.echo("\t".join(plain(str(cell)) for cell in line))
        return
    cells = [[plain(str(cell)) for cell in line] for line in lines]
    if _width(columns, cells) > out.width:
        _show_blocks(columns, cells)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in PROSE, overflow="fold")
    for row in cells:
        table.add_row(*(cell_text(cell) for cell in row))
    out.print(table)


def _width(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Return the narrowest screen on which a table shows every id, name and number whole; only prose may wrap."""
    widest = [max(len(column), *(len(row[place]) for row in cells)) for place, column in enumerate(columns)]
    least = (min(width, _PROSE_WIDTH) if column in PROSE else width for column, width in zip(columns, widest, strict=True))
    return sum(least) + _GAP * len(columns)


def _show_blocks(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a block of `name  value` lines per row: a value is never cut or folded by us, so it can be copied whole."""
    width = max(len(column) for column in columns)
    for number, row in enumerate(cells):
        if number:
            click.echo()
        for column, cell in zip(columns, row, strict=True):
            if cell not in {"", "-"}:
                click.echo(f"{column.lower():<{width}}  {cell}")


def show_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines, those without a value left out."""
    given = [(name, plain(str(value))) for name, value in pairs if value not in {None, ""}]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        click.echo(f"{name:<{width}}  {value}")


def waits_alike(before: Waiting | None, now: Waiting | None) -> bool:
    """Return whether two looks found the same reason of waiting. A stuck one's message may hold an age, which changes at each look."""
    if before is None or now is None or before.reason != now.reason:
        return before is now
    return now.stuck or before.message == now.message


def note_waiting(before: Waiting | None, now: Waiting | None) -> None:
    """Write to stderr why something waits, once for each reason."""
    if now is not None and not waits_alike(before, now):
        click.echo(plain(now.message), err=True)


def cell_text(cell: Any) -> Text:
    """Return a cell as text, states coloured."""
    text = plain(str(cell))
    return Text(text, style=COLOURS.get(text, ""))


def short(identity: str | None) -> str:
    """Return the first 12 characters of a version, `-` for none."""
    return identity[:12] if identity else "-"
