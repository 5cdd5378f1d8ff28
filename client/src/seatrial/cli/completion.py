"""completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from seatrial.cli.output import as_json, say_json


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@as_json
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print SHELL's completion script. For bash: eval "$(seatrial completion bash)" in ~/.bashrc."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    script = kind(ctx.find_root().command, {}, "seatrial", "_SEATRIAL_COMPLETE").source()
    say_json({"shell": shell, "script": script}) if as_json else click.echo(script)
