"""How things are shown: JSON for programs, tables for people, and never a control character of somebody else's."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seatrial.client import Client

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
"""Terminal escape sequences (ECMA-48): colours and cursor moves, window titles, single letters."""
_BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400

COLOURS = {
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
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(cell_text(cell) for cell in line))
    out.print(table)


def show_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines, those without a value left out."""
    given = [(name, plain(str(value))) for name, value in pairs if value not in {None, ""}]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        click.echo(f"{name:<{width}}  {value}")


def cell_text(cell: Any) -> Text:
    """Return a cell as text, states coloured."""
    text = plain(str(cell))
    return Text(text, style=COLOURS.get(text, ""))


def short(identity: str | None) -> str:
    """Return the first 12 characters of a version, `-` for none."""
    return identity[:12] if identity else "-"


def part(value: float | None) -> str:
    """Return a part of one as a percentage."""
    return "-" if value is None else f"{value * 100:.1f} %"


def ago(moment: datetime, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> str:
    """Return how long ago something was."""
    return f"{duration((now() - moment).total_seconds())} ago"


def duration(seconds: float) -> str:
    """Return `4.2 s`, `3 min 10 s`, `2 h 5 min` or `3 d`."""
    seconds = max(0.0, seconds)
    if seconds < 10:  # noqa: PLR2004 - below ten seconds tenths are worth reading
        return f"{seconds:.1f} s"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
    return f"{seconds // _DAY:.0f} d"
