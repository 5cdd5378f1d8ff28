"""`seatrial demo`: the main job on real parts, from hub ids to feedback, a refusal and a rollback. Ends with one JSON document."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import click
from openai import OpenAI
from rich.console import Console
from rich.markup import escape

from core.errors import Fault
from core.reasons import Reason
from core.submissions import StepState, SubmissionState
from infra.local import demo_real, privacy
from infra.local.demo_endings import EXPECTED, FAILED, Ending, ending
from infra.local.demo_parts import Background, hub, published, stack
from infra.local.demo_real import Built
from infra.local.traffic import Traffic, TrafficReport
from seatrial import Client
from seatrial.types import Feedback, Submission

ENDPOINT = "chat"
_QUESTION = "Hello! What can you do?"
_COMMENT = "Friendly, and to the point."
_NOT_AVAILABLE = "not_available"
"""The state of SmolLM2 in the document when its packages could not be had."""
_NO_SYNTHETIC = "-1"
"""The demo's users are live ones; the rollout needs no conversations of its own."""
_SHARES = "0.2,0.5,1.0"
"""The default begins at 0.05. With 0.2, the verdict has enough conversations of the candidate in a quarter of the time."""
_CONCURRENCY = "8"
"""As many conversations as the benchmark holds. The default, 16, would fill 360 MB more with SmolLM2's KV cache, which takes seconds."""
_FEEDBACK_S = 60.0
_SUBMISSION_S = 1200.0
_ASK_S = 120.0
_LOOK_S = 0.1
_WATCH_S = 0.5

Say = Callable[[str], None]
_NOTHING: Mapping[str, Callable[[], None]] = {}


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demo's stack is, and the keys that it made there."""

    control: str
    gateway: str
    operator: str
    submitter: str
    application: str

    def openai(self) -> OpenAI:
        """Return OpenAI's own client, as an application uses it."""
        return OpenAI(base_url=f"{self.gateway}/v1", api_key=self.application, max_retries=0, timeout=_ASK_S)


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="State directory to keep; default: a temporary one.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON document on standard output.")
def demo(home: Path | None, as_json: bool) -> None:
    """Take three tiny models and SmolLM2 through the main job: promoted, refused, rolled back, asked. Under two minutes."""
    sys.exit(run(home, Console(stderr=True, highlight=False), as_json=as_json))


def run(home: Path | None, console: Console, *, as_json: bool) -> int:
    """Run the demo and return its exit code. A temporary home is removed after a success; any other one is kept and named."""
    os.umask(privacy.UMASK)
    end = Ending(FAILED, "")
    place = home
    document: dict[str, Any] = {}
    try:
        with _signals_interrupt():
            place = home or Path(tempfile.mkdtemp(prefix="seatrial-demo-"))
            document = _whole(place, console)
        missed = missing(document)
        end = Ending(FAILED if missed else 0, "; ".join(missed), "compare the document with docs/quickstart.md" if missed else "")
    except (KeyboardInterrupt, *EXPECTED) as error:
        end = ending(error)
    finally:
        _close(end, place, console, keep=home is not None)
    if as_json:
        failure = {"error": {"message": end.what, "hint": end.hint, "home": str(place)}} if end.code else {}
        click.echo(json.dumps({"ok": not end.code, **document, **failure}))
    return end.code


def _close(end: Ending, place: Path | None, console: Console, *, keep: bool) -> None:
    """Say how it ended. Keep the home when it failed: its logs tell why."""
    if end.code == 0:
        if place is not None and not keep:
            shutil.rmtree(place, ignore_errors=True)
        return
    console.print(f"[bold red]error:[/] {escape(end.what or 'the demo ended with a traceback')}", soft_wrap=True)
    if end.hint:
        console.print(f"next: {escape(end.hint)}", soft_wrap=True)
    if place is not None and place.is_dir():
        console.print(f"logs: {place / 'logs'}", soft_wrap=True)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, so that the stack is stopped."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _whole(place: Path, console: Console) -> dict[str, Any]:
    begun = monotonic()
    built = demo_real.building()
    with ExitStack() as parts:
        models = published(place / "hub")
        hub_url = parts.enter_context(hub(models))
        up_s = parts.enter_context(stack(place, _environ(hub_url), lambda line: console.print(f"  [dim]{escape(line)}[/]")))
        document = _main_job(_place(place), models, built, console)
    return {"stack_up_s": up_s, **document, "total_s": round(monotonic() - begun, 1)}


def _environ(hub_url: str) -> dict[str, str]:
    return {
        "SEATRIAL_HUB_ENDPOINT": hub_url,
        "SEATRIAL_ROLLOUT_SYNTHETIC_AFTER_S": _NO_SYNTHETIC,
        "SEATRIAL_ROLLOUT_SHARES": _SHARES,
        "SEATRIAL_ROLLOUT_PASS_INTERVAL_S": "0.5",
        "SEATRIAL_MODELS_CONCURRENCY": _CONCURRENCY,
        "SEATRIAL_ROLLOUT_DEADLINE_S": "1800",
    }


def _place(home: Path) -> Place:
    """Read where the stack is and make the demo's keys."""
    secret = (home / "operator.key").read_text(encoding="ascii").strip()
    control = json.loads((home / "run" / "client.json").read_text(encoding="utf-8"))["control_url"]
    with Client(control, secret) as operator:
        submitter = operator.keys.create("mia", "submitter").secret or ""
        application = operator.keys.create("harbour-app", "application", endpoints=[ENDPOINT, demo_real.ENDPOINT]).secret or ""
        return Place(control, operator.gateway_url, secret, submitter, application)


def _main_job(place: Place, models: Path, built: Background[Built], console: Console) -> dict[str, Any]:
    """Take the real model through its trials in the background, and the three tiny ones meanwhile."""
    real = Background(lambda: _real(place, models, built))
    with Client(place.control, place.submitter) as submitter, place.openai() as openai:
        first, feedback = _first(place, submitter, openai, console)
        second = _submit(submitter, "demo/clumsy", ENDPOINT, console.print)
        third, traffic, rollout = _canary(place, submitter, openai, console)
    told, lines = real.result()
    for line in lines:
        console.print(line)
    return {
        **feedback,
        "first": asdict(first),
        "second": asdict(second),
        "third": asdict(third),
        "rollout": rollout,
        "live": asdict(traffic),
        "real": told,
    }


def _real(place: Place, models: Path, building: Background[Built]) -> tuple[dict[str, Any], list[str]]:
    """Submit SmolLM2 to an endpoint of its own and ask it; return its part of the document and what to print of it."""
    built = building.result()
    if built.folder is None:
        return {"state": _NOT_AVAILABLE, "message": built.message}, [f"[bold yellow]SmolLM2 was left out:[/] {escape(built.message)}"]
    lines: list[str] = []
    with Client(place.control, place.submitter) as submitter, place.openai() as openai:
        told = _submit(submitter, demo_real.offer(built, models), demo_real.ENDPOINT, lines.append)
        said = demo_real.questions(openai) if told.state == SubmissionState.SERVING else ()
    for one in said:
        lines.append(f"[bold]{demo_real.ENDPOINT}[/] was asked: {escape(one.question)}")
        lines.append(f"  {escape(one.answer)}  [dim]({one.completion_tokens} tokens, {one.tokens_per_s:.1f} per second)[/]")
    return {**asdict(told), "built_s": built.seconds, "answers": [asdict(one) for one in said]}, lines


def _first(place: Place, submitter: Client, openai: OpenAI, console: Console) -> tuple[Told, dict[str, Any]]:
    """Promote model 1, ask it through OpenAI's own client, vote, and read the vote as its submitter."""
    begun = monotonic()
    told = _submit(submitter, "demo/steady", ENDPOINT, console.print)
    if told.state != SubmissionState.SERVING:
        raise Fault(f"{told.model} ended as {told.state} ({told.reason}): {told.message}", hint="read runner.log and the engine's log")
    answer = openai.chat.completions.create(model=ENDPOINT, messages=[{"role": "user", "content": _QUESTION}], max_tokens=64)
    streamed = openai.chat.completions.create(model=ENDPOINT, messages=[{"role": "user", "content": "Hello"}], max_tokens=64, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    with Client(place.control, place.application) as application:
        application.feedback.give(answer.id, thumb="up", comment=_COMMENT)
    read = _feedback(submitter, answer.id)
    seconds = round(monotonic() - begun, 1)
    console.print(f"[bold]{ENDPOINT}[/] answered: {escape(answer.choices[0].message.content or '')}")
    console.print(f"feedback read by its submitter: {read.thumb} {read.comment!r} after {seconds} s")
    return told, {
        "submission_to_first_feedback_s": seconds,
        "answer": answer.choices[0].message.content,
        "streamed_answer": "".join(pieces),
        "feedback": {"thumb": read.thumb, "comment": read.comment, "completion": read.completion},
    }


def _feedback(submitter: Client, completion: str, limit_s: float = _FEEDBACK_S) -> Feedback:
    """Wait until the submitter can read the feedback on a completion. Raises Fault after `limit_s`."""
    until = monotonic() + limit_s
    while monotonic() < until:
        found = [item for item in submitter.feedback.list(endpoint=ENDPOINT) if item.completion == completion]
        if found:
            return found[0]
        threading.Event().wait(_LOOK_S)
    raise Fault(f"feedback on {completion} did not arrive within {limit_s:.0f} s", hint="read gateway.log: its spool is shipped from there")


def _canary(place: Place, submitter: Client, openai: OpenAI, console: Console) -> tuple[Told, TrafficReport, dict[str, Any]]:
    """Put model 3 on 20 % of live conversations and wait for the verdict."""
    with Client(place.control, place.operator) as operator:
        stable = operator.endpoints.get(ENDPOINT).stable or ""
        with Traffic(openai, ENDPOINT, stable) as traffic:
            told = _submit(submitter, "demo/parrot", ENDPOINT, console.print, at={"roll_out": traffic.hurry})
            traffic.drain()
        rollouts = operator.rollouts.list(ENDPOINT, limit=1)
    if not rollouts:
        raise Fault(f"{told.model} got no rollout: {told.state} ({told.reason}): {told.message}", hint="read runner.log")
    report = traffic.report()
    console.print(f"live: {report}")
    return told, report, json.loads(json.dumps(asdict(rollouts[0]), default=str))


def _submit(
    submitter: Client, model: str, endpoint: str, say: Say, limit_s: float = _SUBMISSION_S, at: Mapping[str, Callable[[], None]] = _NOTHING
) -> Told:
    """Submit, show each step as it ends, and return what became of it. Raises Fault after `limit_s`.

    `at` says what to do once the step of a name has begun.
    """
    begun = monotonic()
    submission = submitter.submissions.submit(model, endpoint)
    say(f"[bold]{model}[/] -> {endpoint}: {submission.id}")
    shown: set[str] = set()
    for current in submitter.submissions.watch(submission.id, interval_s=_WATCH_S):
        _show(current, shown, say)
        for step in current.steps:
            at.get(step.name, _nothing)()
        submission = current
        if monotonic() - begun > limit_s and not current.ended:
            raise Fault(f"{model} was still {current.state} after {limit_s:.0f} s", hint="read runner.log and the engine's log")
    seconds = round(monotonic() - begun, 1)
    say(f"  [bold]{submission.state}[/] after {seconds} s: {escape(submission.message)}")
    steps = {step.name: round((step.ended_at - step.started_at).total_seconds(), 2) for step in submission.steps if step.ended_at}
    numbers = {report.kind: report.numbers for report in submission.reports}
    return Told(model, submission.state, submission.reason, submission.message, seconds, steps, numbers)


def _nothing() -> None:
    pass


def _show(submission: Submission, shown: set[str], say: Say) -> None:
    for step in submission.steps:
        if step.ended_at and step.name not in shown and step.state != StepState.RETRYING:
            shown.add(step.name)
            say(f"  {step.name:<13} {(step.ended_at - step.started_at).total_seconds():6.2f} s  [dim]{escape(step.message)}[/]")


def missing(document: Mapping[str, Any]) -> list[str]:
    """Return what the demo was to show and did not, one sentence each."""
    live, real, second = document["live"], document["real"], document["second"]
    expected = {
        f"demo/steady ended as {document['first']['state']}, expected serving": document["first"]["state"] == SubmissionState.SERVING,
        f"the feedback read was {document['feedback']['comment']!r}, expected {_COMMENT!r}": document["feedback"]["comment"] == _COMMENT,
        f"demo/clumsy ended as {second['state']} {second['reason']}, expected refused benchmark_below_stable": (
            (second["state"], second["reason"]) == (SubmissionState.REFUSED, Reason.BENCHMARK_BELOW_STABLE)
        ),
        f"demo/parrot ended as {document['third']['state']}, expected rolled_back": document["third"]["state"]
        == SubmissionState.ROLLED_BACK,
        f"{live['stable_failed']} conversations of the stable version failed, expected 0": live["stable_failed"] == 0,
        f"{live['stable_changed_model']} conversations changed their model, expected 0": live["stable_changed_model"] == 0,
        "no conversation was held with the stable version": live["stable_conversations"] > 0,
        "no conversation was held with the candidate": live["candidate_conversations"] > 0,
        f"demo/smollm2 ended as {real['state']}, expected serving: {real['message']}": real["state"]
        in {SubmissionState.SERVING, _NOT_AVAILABLE},
        "demo/smollm2 gave no answer": real["state"] != SubmissionState.SERVING or any(one["answer"] for one in real["answers"]),
    }
    return [sentence for sentence, held in expected.items() if not held]
