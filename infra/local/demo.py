"""`seatrial demo`: the main job on real parts, from three hub ids to feedback, a refusal and a rollback. Ends with one JSON document."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import click
from openai import OpenAI
from rich.console import Console

from core.errors import Fault
from infra.local.commands import reported
from infra.local.demo_parts import MODELS, hub, stack
from infra.local.traffic import Traffic, TrafficReport
from seatrial import Client
from seatrial.words import Submission

ENDPOINT = "chat"
_QUESTION = "Hello! What can you do?"
_COMMENT = "Friendly, and to the point."
_NO_SYNTHETIC = "-1"
"""The demo's users are live ones; the rollout needs no conversations of its own."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the demo saw of one submission."""

    model: str
    state: str
    reason: str
    message: str
    seconds: float
    steps_s: dict[str, float]
    numbers: dict[str, Any]


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="State directory to keep; default: a temporary one.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON document on standard output.")
@reported
def demo(home: Path | None, as_json: bool) -> None:
    """Take three tiny real models through the main job: one promoted, one refused, one rolled back. About a minute."""
    console = Console(stderr=True, highlight=False)
    begun = monotonic()
    kept = home is not None
    place = home or Path(tempfile.mkdtemp(prefix="seatrial-demo-"))
    try:
        with hub(MODELS) as hub_url, stack(place, _environ(hub_url), lambda line: console.print(f"  [dim]{line}[/]")) as up_s:
            document = _main_job(place, console)
        document = {"ok": _ok(document), "stack_up_s": up_s, **document, "total_s": round(monotonic() - begun, 1)}
    finally:
        if not kept:
            shutil.rmtree(place, ignore_errors=True)
    if as_json:
        click.echo(json.dumps(document))
    if not document["ok"]:
        raise Fault("the demo did not go as it should", hint="the document above tells which part; keep its logs with --home")


def _environ(hub_url: str) -> dict[str, str]:
    return {
        "SEATRIAL_HUB_ENDPOINT": hub_url,
        "SEATRIAL_ROLLOUT_SYNTHETIC_AFTER_S": _NO_SYNTHETIC,
        "SEATRIAL_ROLLOUT_PASS_INTERVAL_S": "0.5",
        "SEATRIAL_ROLLOUT_DEADLINE_S": "240",
    }


def _main_job(home: Path, console: Console) -> dict[str, Any]:
    secret = (home / "operator.key").read_text(encoding="ascii").strip()
    control = json.loads((home / "run" / "client.json").read_text(encoding="utf-8"))["control_url"]
    with Client(control, secret) as operator:
        submitter_key = operator.keys.create("mia", "submitter").secret or ""
        application_key = operator.keys.create("harbour-app", "application", endpoints=[ENDPOINT]).secret or ""
        openai = OpenAI(base_url=f"{operator.gateway_url}/v1", api_key=application_key, max_retries=0)
        with Client(control, submitter_key) as submitter:
            first, feedback = _first(control, submitter, openai, console)
            second = _submit(submitter, "demo/clumsy", console)
            third, traffic, rollout = _canary(operator, submitter, openai, console)
    return {
        **feedback,
        "first": asdict(first),
        "second": asdict(second),
        "third": asdict(third),
        "rollout": rollout,
        "live": asdict(traffic),
    }


def _first(control: str, submitter: Client, openai: OpenAI, console: Console) -> tuple[Told, dict[str, Any]]:
    """Promote model 1, ask it through OpenAI's own client, vote, and read the vote as its submitter."""
    begun = monotonic()
    told = _submit(submitter, "demo/steady", console)
    answer = openai.chat.completions.create(model=ENDPOINT, messages=[{"role": "user", "content": _QUESTION}], max_tokens=64)
    streamed = openai.chat.completions.create(model=ENDPOINT, messages=[{"role": "user", "content": "Hello"}], max_tokens=64, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    with Client(control, openai.api_key) as application:
        application.feedback.give(answer.id, thumb="up", comment=_COMMENT)
    read = next(item for item in submitter.feedback.follow(endpoint=ENDPOINT, interval_s=0.1) if item.completion == answer.id)
    seconds = round(monotonic() - begun, 1)
    console.print(f"[bold]{ENDPOINT}[/] says: {answer.choices[0].message.content}")
    console.print(f"feedback read by its submitter: {read.thumb} {read.comment!r} after {seconds} s")
    return told, {
        "submission_to_first_feedback_s": seconds,
        "answer": answer.choices[0].message.content,
        "streamed_answer": "".join(pieces),
        "feedback": {"thumb": read.thumb, "comment": read.comment, "completion": read.completion},
    }


def _canary(operator: Client, submitter: Client, openai: OpenAI, console: Console) -> tuple[Told, TrafficReport, dict[str, Any]]:
    """Put model 3 on 5 % of live conversations and wait for the verdict."""
    stable = operator.endpoints.get(ENDPOINT).stable or ""
    with Traffic(openai, ENDPOINT, stable) as traffic:
        told = _submit(submitter, "demo/parrot", console)
        traffic.drain()
    rollout = operator.rollouts.list(ENDPOINT, limit=1)[0]
    report = traffic.report()
    console.print(f"live: {report}")
    return told, report, json.loads(json.dumps(asdict(rollout), default=str))


def _submit(submitter: Client, model: str, console: Console) -> Told:
    """Submit, show each step as it ends, and return what became of it."""
    begun = monotonic()
    submission = submitter.submissions.submit(model, ENDPOINT)
    console.print(f"[bold]{model}[/] -> {ENDPOINT}: {submission.id}")
    shown: set[str] = set()
    for current in submitter.submissions.watch(submission.id, interval_s=0.2):
        _show(current, shown, console)
        submission = current
    seconds = round(monotonic() - begun, 1)
    console.print(f"  [bold]{submission.state}[/] after {seconds} s: {submission.message}")
    steps = {step.name: round((step.ended_at - step.started_at).total_seconds(), 2) for step in submission.steps if step.ended_at}
    numbers = {report.kind: report.numbers for report in submission.reports}
    return Told(model, submission.state, submission.reason, submission.message, seconds, steps, numbers)


def _show(submission: Submission, shown: set[str], console: Console) -> None:
    for step in submission.steps:
        if step.ended_at and step.name not in shown and step.state != "retrying":
            shown.add(step.name)
            console.print(f"  {step.name:<13} {(step.ended_at - step.started_at).total_seconds():6.2f} s  [dim]{step.message}[/]")


def _ok(document: dict[str, Any]) -> bool:
    """Whether everything went as the issue of the demo asks."""
    live = document["live"]
    wanted: list[Callable[[], bool]] = [
        lambda: document["first"]["state"] == "serving",
        lambda: document["feedback"]["comment"] == _COMMENT,
        lambda: document["second"]["state"] == "refused" and document["second"]["reason"] == "benchmark_below_stable",
        lambda: document["third"]["state"] == "rolled_back",
        lambda: live["stable_conversations"] > 0 and live["stable_failed"] == 0 and live["stable_changed_model"] == 0,
        lambda: live["candidate_conversations"] > 0,
    ]
    return all(check() for check in wanted)
