"""The command line. One file per group of commands; each is imported when it is called, so that `seatrial --help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import click

from seatrial.cli.ending import INTERRUPTED, exit_code_of, show_error
from seatrial.errors import SeatrialError
from seatrial.paths import absolute

__all__ = ["COMMANDS", "INTERRUPTED", "Options", "main", "show_error"]
_PLUGINS = "seatrial.commands"

EPILOG = """\b
Examples:
  seatrial submit ORG/MODEL --endpoint chat --watch
  seatrial chat chat "hello"

\b
Exit codes:
  0    done
  1    refused, failed, ended otherwise than serving, worse than its baseline, or problems were found;
       also when the output cannot be written
  2    wrong usage
  3    not authorised (no key, a dead key, or its role does not allow this)
  4    not found
  5    conflict with the state that it is in
  6    the platform cannot be reached
  130  interrupted
"""


class Entry(NamedTuple):
    """Where a command is, and its line in `--help`."""

    module: str
    attribute: str
    help: str


class Options(NamedTuple):
    """What was given before the command: which platform is meant."""

    home: str | None = None
    url: str | None = None
    key: str | None = None


COMMANDS: dict[str, Entry] = {
    "submit": Entry("seatrial.cli.submissions", "submit", "Bring a model to an endpoint."),
    "status": Entry("seatrial.cli.submissions", "status", "Show what is wrong, what serves and what is on its way, or one submission."),
    "submissions": Entry("seatrial.cli.submissions", "submissions", "List submissions."),
    "logs": Entry("seatrial.cli.submissions", "logs", "Show what a submission's run and engine logged."),
    "cancel": Entry("seatrial.cli.submissions", "cancel", "Cancel a submission that has not ended."),
    "models": Entry("seatrial.cli.models", "models", "Show model versions, or one with its trials."),
    "leaderboard": Entry("seatrial.cli.models", "leaderboard", "Rank the versions that answered users."),
    "endpoints": Entry("seatrial.cli.endpoints", "endpoints", "Show endpoints and what serves behind them."),
    "rollouts": Entry("seatrial.cli.endpoints", "rollouts", "Show rollouts, or one with its verdict."),
    "rollback": Entry("seatrial.cli.endpoints", "rollback", "Take an endpoint's candidate back, or bring its previous version."),
    "bench": Entry("seatrial.cli.bench", "bench", "Benchmark a model, look at results, compare them."),
    "chat": Entry("seatrial.cli.chat", "chat", "Talk to an endpoint."),
    "feedback": Entry("seatrial.cli.feedback", "feedback", "Give, list or follow feedback."),
    "keys": Entry("seatrial.cli.keys", "keys", "Create, list and revoke keys."),
    "whoami": Entry("seatrial.cli.keys", "whoami", "Show who your key is."),
    "completion": Entry("seatrial.cli.completion", "completion", "Print a shell's completion script."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and shows errors as `error:` and `next:` with stable exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names: ours first, then those of other packages."""
        return [*COMMANDS, *sorted(_plugins())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a command."""
        if cmd_name in COMMANDS:
            entry = COMMANDS[cmd_name]
            found = getattr(import_module(entry.module), entry.attribute)
        elif cmd_name in (plugins := _plugins()):
            found = plugins[cmd_name].load()
        else:
            return None
        return found if isinstance(found, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])
        if plugins := sorted(_plugins()):
            with formatter.section("Commands of the platform on this machine"):
                formatter.write_text(", ".join(plugins))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit. Usage errors and output that cannot be written end as `exit_code_of` defines."""
        command = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return command()
        sys.exit(exit_code_of(command))

    def invoke(self, ctx: click.Context) -> None:
        """Run a command; its errors become two lines on stderr and an exit code."""
        try:
            super().invoke(ctx)  # without its return value, which is not an exit code
        except SeatrialError as error:
            show_error(error)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):  # Abort: at a question, or the input ended before its answer
            with suppress(OSError):
                click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


def _plugins() -> dict[str, Any]:
    return {found.name: found for found in entry_points(group=_PLUGINS) if found.name not in COMMANDS}


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--home",
    metavar="FOLDER",
    help="The state directory of a platform on this machine, as given to `seatrial up` (default: SEATRIAL_HOME).",
)
@click.option("--url", metavar="URL", help="The control API (default: SEATRIAL_URL, else what `seatrial up` left).")
@click.option("--key", metavar="KEY", help="Your bearer key (default: SEATRIAL_KEY; a key on a command line is seen by others).")
@click.version_option(package_name="seatrial", prog_name="seatrial")
@click.pass_context
def main(ctx: click.Context, home: str | None, url: str | None, key: str | None) -> None:
    """Bring a language model through its trials to real users' feedback."""
    ctx.obj = Options(str(absolute(home)) if home else None, url, key)
