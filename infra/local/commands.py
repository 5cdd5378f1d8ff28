"""Operator commands of the `seatrial` command line: up, down, doctor, settings."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.text import Text

from core.ports.clock import SystemClock
from core.settings import Settings, listing, read_settings
from infra.findings import Finding
from infra.local import earlier_stack, privacy, runs_watch, stack
from infra.local.database_templates import MLFLOW, PREFECT
from infra.local.doctor import examine
from infra.local.failures import reported
from infra.local.supervisor import Event, PortTaken, Service, Supervisor
from seatrial.cli.output import show_table
from serving.engines.processes import Identity

__all__ = ["doctor", "down", "reported", "settings", "up"]
P = ParamSpec("P")
R = TypeVar("R")
_MOST_PORT_RACES = 5
_SECRET = ("TOKEN", "KEY", "PASSWORD", "SECRET", "WEBHOOK_URL")


def home_of_group() -> str | None:
    """Return the home that was given before the command: `seatrial --home X doctor`."""
    found = click.get_current_context().find_root().obj
    return getattr(found, "home", None)


home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, readable=False),
    default=home_of_group,
    help="The state directory (default: the one given before the command, else SEATRIAL_HOME, else below your data directory).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document per line instead of text.")


def port_option(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make the option that fixes a service's port."""
    return click.option(
        f"--{name}-port", type=click.IntRange(1, 65535), help=f"Port of {name}; default: last time's, the usual one, or a free one."
    )


@click.command()
@home_option
@port_option("gateway")
@port_option("control")
@port_option("prefect")
@port_option("mlflow")
@json_option
@reported
def up(home: Path | None, as_json: bool, **ports: int | None) -> None:
    """Start the whole stack in the foreground; Ctrl-C stops it."""
    settings = read_settings(home=home)
    from wiring.suites import ReadSuites  # noqa: PLC0415 - brings in the adapters, which the other commands do not need

    ReadSuites(settings).check_settings()
    stop, hurry = _signals()
    with earlier_stack.only_one(settings.home):
        _run(settings, {name.removesuffix("_port"): port for name, port in ports.items()}, stop, hurry, Console(), as_json=as_json)


@click.command()
@home_option
@json_option
@reported
def down(home: Path | None, as_json: bool) -> None:
    """Stop the stack of a home, or what is left of one that was killed."""
    settings = read_settings(home=home)
    stopped = earlier_stack.bring_down(settings.home, SystemClock())
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@click.command()
@home_option
@json_option
@click.option("--kubernetes", is_flag=True, help="Look at a cluster instead of this machine.")
@click.option("--namespace", default="", help="With --kubernetes: the namespace; default: SEATRIAL_ENGINES_URL's, else seatrial.")
@reported
def doctor(home: Path | None, namespace: str, *, as_json: bool, kubernetes: bool) -> None:
    """Say what this machine lacks, or a cluster. Exit code 1 when something is missing."""
    settings = read_settings(home=home)
    findings = tuple(_of_cluster(settings, namespace) if kubernetes else examine(settings))
    fine = all(finding.ok for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": fine, "findings": [asdict(finding) for finding in findings]}))
    else:
        rows = [(finding.name, "pass" if finding.ok else "fail", finding.what, finding.next) for finding in findings]
        show_table(("CHECK", "RESULT", "FOUND", "NEXT"), rows, empty="no checks")
    if not fine:
        sys.exit(1)


def _of_cluster(settings: Settings, namespace: str) -> Iterator[Finding]:
    """Look at the cluster. The client is imported here: the other commands do not need it, and it takes a second."""
    from infra.kubernetes import doctor as cluster  # noqa: PLC0415
    from serving.engines.kubernetes.api import Api, connect  # noqa: PLC0415

    chosen = namespace or urlsplit(settings.engines_url).netloc or "seatrial"
    client = connect(settings.kubernetes.kubeconfig, settings.kubernetes.context)
    return cluster.examine(settings, Api(client, chosen, SystemClock()))


@click.command("settings")
@home_option
@json_option
@reported
def settings(home: Path | None, as_json: bool) -> None:
    """List every setting: its environment name, value and meaning."""
    read = read_settings(home=home)
    rows = [(name, _shown(name, value), doc, default) for name, value, doc, default in listing(read)]
    if as_json:
        click.echo(json.dumps({name: {"value": value, "default": str(default), "doc": doc} for name, value, doc, default in rows}))
        return
    show_table(("SETTING", "VALUE", "NOTE"), [row[:3] for row in rows], empty="no settings")
    if not read.home.exists():
        click.echo(f"note: the home {read.home} does not exist yet; `seatrial up` creates it", err=True)


def _run(
    settings: Settings, given: Mapping[str, int | None], stop: threading.Event, hurry: threading.Event, console: Console, *, as_json: bool
) -> None:
    """Clear up, prepare, start, keep, stop. A port that another process took after it had been chosen is replaced by another one."""
    from wiring.home import prepare  # noqa: PLC0415 - brings in SQLAlchemy, which the other commands do not need

    clock = SystemClock()
    say = _json_line if as_json else _text_line(console)
    for name in earlier_stack.clear_left(settings.home, clock):
        say("note", {"note": f"{name} was left by an earlier run and has been ended"})
    tightened = earlier_stack.make_private(settings.home)
    if tightened:
        say("note", {"note": f"{tightened} files and folders in {settings.home} were readable by other users; now only by you"})
    prepare(settings)
    PREFECT.provide(settings.home / "prefect")
    MLFLOW.provide(settings.home)
    for races in range(_MOST_PORT_RACES + 1):
        try:
            _serve(settings, given, stop, hurry, say)
        except PortTaken as error:
            if given.get(error.service) is not None or races == _MOST_PORT_RACES:
                raise
            say("note", {"note": f"{error.what}; starting again with another port"})
        else:
            return


def _serve(
    settings: Settings,
    given: Mapping[str, int | None],
    stop: threading.Event,
    hurry: threading.Event,
    say: Callable[[str, dict[str, Any]], None],
) -> None:
    """Start the services on free ports and keep them until `stop` is set."""
    clock = SystemClock()
    started = clock.monotonic()
    settings, chosen = stack.with_ports(settings, given)
    for note in chosen.notes:
        say("note", {"note": note})

    def report(service: Service, event: Event, detail: str) -> None:
        say(event.value, {"service": service.name, "url": service.url, "detail": detail})

    def changed(running: Mapping[str, Identity]) -> None:
        earlier_stack.write_left(settings, running, chosen.ports)

    def troubled(what: str) -> None:
        say("trouble", {"service": "runner", "url": "", "detail": what})

    supervisor = Supervisor(stack.services(settings), clock, report, changed=changed, log_bytes=settings.retention.log_bytes)
    over = threading.Event()
    try:
        if supervisor.start(stop):
            privacy.tighten(settings.home)  # Prefect copies its pages with the rights that the installed ones have
            say("up", _up(settings, clock.monotonic() - started))
            threading.Thread(target=runs_watch.watch, args=(settings, over, troubled), daemon=True, name="runs").start()
            supervisor.run(stop)
    finally:
        over.set()
        try:
            supervisor.stop(hurry)
        finally:
            earlier_stack.end_engines(settings.home, clock)
            privacy.empty_temporary(settings.home)


def _up(settings: Settings, took_s: float) -> dict[str, Any]:
    return {
        "home": str(settings.home),
        "gateway": settings.gateway_url,
        "control": settings.control_url,
        "detail": f"{took_s:.1f} s",
        "next": f"{stack.client_command(settings.home)} submit ORG/MODEL --endpoint chat --watch",
    }


def _signals() -> tuple[threading.Event, threading.Event]:
    """Return (stop, hurry): the first Ctrl-C or SIGTERM sets one, the second the other."""
    stop, hurry = threading.Event(), threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return stop, hurry


def _json_line(event: str, document: dict[str, Any]) -> None:
    click.echo(json.dumps({"event": event, **document}))
    sys.stdout.flush()


def _text_line(console: Console) -> Callable[[str, dict[str, Any]], None]:
    marks = {
        "ready": "[green]ready  [/]",
        "waiting": "[yellow]waiting[/]",
        "crashed": "[red]crashed[/]",
        "trouble": "[red]trouble[/]",
        "stopped": "[dim]stopped[/]",
        "note": "[yellow]note   [/]",
    }

    def line(event: str, document: dict[str, Any]) -> None:
        if event == "up":
            said = f" after {document['detail']}; gateway at {document['gateway']}, state in {document['home']}; Ctrl-C stops"
            console.print(Text.assemble(("up", "bold green"), said), soft_wrap=True)
            console.print(Text(f"next, in another terminal: {document['next']}"), soft_wrap=True)
        elif event == "note":
            console.print(Text.assemble(Text.from_markup(marks[event]), f" {document['note']}"), soft_wrap=True)
        else:
            said = f" {document['service']:<8} {document['url']} "
            console.print(Text.assemble(Text.from_markup(marks[event]), said, (document["detail"], "dim")), soft_wrap=True)

    return line


def _shown(name: str, value: object) -> str:
    """Hide what opens doors, passwords in URLs too."""
    text = str(value)
    if text and name.endswith(_SECRET):
        return "(set)"
    scheme, separator, rest = text.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:...@{place}" if separator and at and ":" in user else text
