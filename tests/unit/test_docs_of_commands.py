"""docs/cli.md lists every command and option of the command line, of the client and of the local commands, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from seatrial.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text(encoding="utf-8")
OF_ALL = {"--json", "--help"}
"""Options that the page states once, for every command."""


def commands(of: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield the command line and each command below it, with its name as it is typed."""
    yield " ".join(path) or "seatrial", of
    if isinstance(of, click.Group):
        context = click.Context(of)
        for name in of.list_commands(context):
            below = of.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


def options(of: click.Command) -> set[str]:
    given = [parameter for parameter in of.params if isinstance(parameter, click.Option) and not parameter.hidden]
    return {name for option in given for name in (*option.opts, *option.secondary_opts)} - OF_ALL


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def listed() -> dict[str, set[str]]:
    """Return the options of each command in the page's table; a row without a command continues the one above."""
    found: dict[str, set[str]] = {}
    names: list[str] = []
    for row in re.findall(r"^\| (.*?)\s*\| (.*) \|$", section("Options"), re.MULTILINE)[1:]:
        names = re.findall(r"`([a-z ]+)`", row[0]) or names
        for name in names:
            found.setdefault(name, set()).update(re.findall(r"`(--?[a-z][a-z-]*)", row[1]))
    return found


def test_the_page_lists_every_command_with_its_options_and_no_other() -> None:
    assert listed() == {name: options(command) for name, command in commands(main)}


def test_the_table_of_tasks_has_every_command() -> None:
    tasks = PAGE.partition("\n## ")[0]
    named = set(re.findall(r"[a-z]+", " ".join(re.findall(r"`([^`]+)`", tasks))))
    assert {word for name, _ in commands(main) for word in name.split()} - named == {"seatrial", "run"}  # `bench X` is `bench run X`


def test_every_command_takes_json_as_the_page_states() -> None:
    without = [name for name, command in commands(main) if not any("--json" in parameter.opts for parameter in command.params)]
    assert without == ["seatrial", "bench", "keys"]  # groups, which need a command after them
