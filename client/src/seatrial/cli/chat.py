"""chat."""

from __future__ import annotations

import sys

import click

from seatrial.cli.output import as_json, client_of, flowing, say_json
from seatrial.client import Client
from seatrial.errors import InvalidArgument, SeatrialError


@click.command()
@click.argument("endpoint")
@click.argument("message", required=False)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option("--system", help="A system message that goes first.")
@as_json
@click.pass_context
def chat(ctx: click.Context, *, endpoint: str, message: str | None, max_tokens: int | None, system: str | None, as_json: bool) -> None:
    """Talk to ENDPOINT: one MESSAGE, or a conversation when there is none (end it with Ctrl-D)."""
    client = client_of(ctx)
    options = {"max_tokens": max_tokens} if max_tokens else {}
    messages = [{"role": "system", "content": system}] if system else []
    if message is not None:
        _turn(client, endpoint, messages, message, options, as_json=as_json)
        return
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout is not None
    if interactive and not as_json:
        click.echo(f"talking to {endpoint}; /up or /down votes on the last answer, Ctrl-D ends", err=True)
    last: str | None = None
    while (line := _read(interactive)) is not None:
        if line in {"/up", "/down"}:
            _vote(client, last, line[1:])
        elif line.strip():
            last = _turn(client, endpoint, messages, line, options, as_json=as_json)


def _turn(client: Client, endpoint: str, messages: list[dict[str, str]], said: str, options: dict[str, int], *, as_json: bool) -> str:
    messages.append({"role": "user", "content": said})
    answer, completion, finish = [], "", None
    for piece in client.chat(endpoint, messages, stream=True, **options):
        answer.append(piece.text)
        completion, finish = piece.completion, piece.finish_reason or finish
        if not as_json:
            click.echo(flowing(piece.text), nl=False)
    text = "".join(answer)
    messages.append({"role": "assistant", "content": text})
    if as_json:
        say_json({"completion": completion, "text": text, "finish_reason": finish})
        return completion
    click.echo()
    if finish == "length":
        click.echo("(cut at the token limit)", err=True)
    click.echo(f"good or bad? seatrial feedback give {completion} --up | --down [--comment TEXT]", err=True)
    return completion


def _vote(client: Client, completion: str | None, thumb: str) -> None:
    if completion is None:
        click.echo("there is no answer to vote on yet", err=True)
        return
    try:
        client.feedback.give(completion, thumb="up" if thumb == "up" else "down")
    except SeatrialError as error:  # a vote that fails does not end the conversation
        click.echo(f"error: {error}", err=True)
        return
    click.echo(f"thumb {thumb} kept", err=True)


def _read(interactive: bool) -> str | None:
    if sys.stdin is None:
        return None
    try:
        if interactive:
            return input("> ")
        line = sys.stdin.readline()
    except EOFError:
        click.echo()
        return None
    except UnicodeDecodeError as error:
        raise InvalidArgument("standard input is not text in UTF-8", hint="give text that is valid UTF-8", reason="bad_text") from error
    except OSError as error:
        what = f"standard input cannot be read: {error.strerror}"
        raise InvalidArgument(what, hint="give the message as an argument", reason="bad_input") from error
    return line.rstrip("\n") if line else None
