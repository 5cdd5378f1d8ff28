"""`seatrial logs`: new lines and why a submission waits, through short outages, with the exit codes of `--watch`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.access import Role
from core.flow_runs import LogLine as RunLine
from core.ids import SubmissionId
from core.ports.clock import SystemClock
from core.services import RunnerBeat
from core.submissions import SubmissionState
from seatrial import Client, Unavailable
from seatrial.cli import main
from seatrial.client import FeedbackGroup, LogTail, Submissions
from seatrial.patience import Asking
from seatrial.types import Feedback, LogLine, Logs, Study, read
from tests.equipment.control_env import ControlEnv, control_env, served
from tests.equipment.rows import put_submission
from tests.equipment.samples import NOW

Run = Callable[..., Result]
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Time:
    """A clock that a pause moves forward; `then` is called at each pause with the seconds since the start."""

    now: float = 0.0
    then: Callable[[float], None] = field(default=lambda _now: None)

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.then(self.now)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlEnv, str]]:
    with control_env(tmp_path_factory.mktemp("logs")) as env, served(env.app) as url:
        yield env, url


@pytest.fixture
def env(platform: tuple[ControlEnv, str]) -> Iterator[ControlEnv]:
    env = platform[0]
    yield env
    env.runs.away, env.runs.lines = False, ()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr("seatrial.cli.output.Client", partial(Client, pause=time.pause, monotonic=time.monotonic))
    return time


@pytest.fixture
def run(platform: tuple[ControlEnv, str], env: ControlEnv, time: Time) -> Run:  # noqa: ARG001 - the client must use this time
    secret = env.secret(Role.OPERATOR, "olga")

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(main, ["--url", platform[1], "--key", secret, *words], prog_name="seatrial")

    return invoke


@pytest.fixture
def submission(run: Run, env: ControlEnv) -> str:
    env.runs.lines = tuple(RunLine(f"l-{number}", NOW + number, "INFO", f"line {number}") for number in range(3))
    return run("submit", "org/model", "-e", "chat").stdout.strip()


def end(env: ControlEnv, submission: str, state: SubmissionState) -> None:
    put_submission(env.records, SubmissionId(submission), NOW, state=state)


def lines_of(done: Result) -> list[str]:
    return [line.split("INFO", 1)[1].strip() for line in done.stdout.splitlines() if "INFO" in line]


@pytest.mark.parametrize(("state", "code"), [(SubmissionState.SERVING, 0), (SubmissionState.REFUSED, 1), (SubmissionState.CANCELLED, 1)])
def test_followed_logs_exit_as_a_watched_submission_does(run: Run, env: ControlEnv, submission: str, state: SubmissionState, code: int):
    end(env, submission, state)
    done = run("logs", submission, "--follow")
    assert (done.exit_code, lines_of(done)) == (code, ["line 0", "line 1", "line 2"])
    assert run("status", submission, "--watch").exit_code == code
    assert run("logs", submission).exit_code == 0, "without --follow the exit code is not about the submission"


def test_new_lines_are_shown_once_until_the_submission_ends(run: Run, env: ControlEnv, submission: str, time: Time):
    def go_on(now: float) -> None:
        env.runs.lines += (RunLine(f"l-{now}", NOW + 10 + now, "INFO", f"at {now:.0f}"),)
        if now >= 3:
            end(env, submission, SubmissionState.SERVING)

    time.then = go_on
    done = run("logs", submission, "--follow")
    assert (done.exit_code, lines_of(done)) == (0, ["line 0", "line 1", "line 2", "at 1", "at 2", "at 3"])


def test_the_reason_of_waiting_is_shown_and_ends_after_60_s_with_exit_code_6(run: Run, env: ControlEnv, submission: str, time: Time):
    time.then = lambda now: env.records.runners.beat(RunnerBeat("here", 17, 100.0, SystemClock().now() - 3600 - now, 10, full=False))
    time.then(0.0)
    done = run("logs", submission, "--follow")
    assert done.exit_code == 6
    assert done.stderr.count("error: stuck for 60 s: the flow runner") == 1
    assert done.stderr.startswith("the flow runner"), "the reason is shown before the end, and once"
    assert done.stderr.count("the flow runner") == 2
    assert "next: " in done.stderr
    assert 60 < time.now < 63


def test_watching_shows_a_reason_with_an_age_once(run: Run, env: ControlEnv, submission: str, time: Time):
    time.then = lambda now: env.records.runners.beat(RunnerBeat("here", 17, 100.0, SystemClock().now() - 3600 - now, 10, full=False))
    time.then(0.0)
    done = run("status", submission, "--watch")
    assert (done.exit_code, done.stderr.count("the flow runner")) == (6, 2), "the reason, and the error at the end"


def test_json_has_the_reason_of_waiting(run: Run, env: ControlEnv, submission: str):
    env.records.runners.beat(RunnerBeat("here", 17, 100.0, SystemClock().now() - 3600, 10, full=False))
    first, second = (json.loads(line) for line in run("logs", submission, "--follow", "--json").stdout.splitlines())
    assert (first["waiting"]["reason"], first["waiting"]["stuck"], first["flow"]) == ("runner_down", True, [])
    assert [line["message"] for line in second["flow"]] == ["line 0", "line 1", "line 2"]


def test_a_short_outage_of_the_log_service_is_waited_for(run: Run, env: ControlEnv, submission: str, time: Time):
    env.runs.away = True
    env.records.runners.beat(RunnerBeat("here", 17, 100.0, SystemClock().now(), 10, full=False))

    def come_back(now: float) -> None:
        if now >= 20:
            env.runs.away = False
            end(env, submission, SubmissionState.SERVING)

    time.then = come_back
    done = run("logs", submission, "--follow")
    assert (done.exit_code, lines_of(done)) == (0, ["line 0", "line 1", "line 2"])
    assert done.stderr.startswith("Prefect"), "why the submission waits is shown although its logs cannot be read"


def _unreachable(monkeypatch: pytest.MonkeyPatch, time: Time, until: float) -> None:
    """Make the platform unreachable from the second call on, until `until` seconds."""
    get, calls = Submissions.get, []

    def failing(self: Submissions, submission: str) -> Any:
        calls.append(time.now)
        if len(calls) > 1 and time.now < until:
            raise Unavailable("the platform does not answer", hint="start it", reason="unreachable")
        return get(self, submission)

    monkeypatch.setattr(Submissions, "get", failing)


def test_a_platform_that_restarts_is_waited_for(run: Run, env: ControlEnv, submission: str, time: Time, monkeypatch: pytest.MonkeyPatch):
    _unreachable(monkeypatch, time, until=30.0)
    time.then = lambda now: end(env, submission, SubmissionState.SERVING) if now >= 30 else None
    done = run("logs", submission, "--follow")
    assert (done.exit_code, lines_of(done)) == (0, ["line 0", "line 1", "line 2"])


def test_a_platform_that_stays_unreachable_ends_with_exit_code_6(run: Run, submission: str, time: Time, monkeypatch: pytest.MonkeyPatch):
    _unreachable(monkeypatch, time, until=1e9)
    done = run("logs", submission, "--follow")
    assert done.exit_code == 6
    assert "error: the platform does not answer" in done.stderr
    assert 60 < time.now < 63


def test_interrupting_leaves_the_submission_and_exits_130(run: Run, submission: str, time: Time):
    def interrupt(_now: float) -> None:
        raise KeyboardInterrupt

    time.then = interrupt
    done = run("logs", submission, "--follow")
    assert done.exit_code == 130
    assert f"the submission goes on: seatrial logs {submission} --follow" in done.stderr


def test_logs_are_one_document_without_follow(run: Run, submission: str):
    (document,) = (json.loads(line) for line in run("logs", submission, "--json").stdout.splitlines())
    assert [line["message"] for line in document["flow"]] == ["line 0", "line 1", "line 2"]


def test_the_tail_of_an_engine_s_output_is_read_once():
    tail = LogTail()
    assert not tail.add(Logs(engine=("a", "b")))
    assert tail.new.engine == ("a", "b")
    assert tail.add(Logs((LogLine("1", AT, "INFO", "x"),), ("b", "c")))
    assert list(tail.new.engine) == ["c"]
    assert tail.after == AT
    assert not tail.add(Logs((LogLine("1", AT, "INFO", "x"),), ("b", "c")))
    assert tail.new == Logs()


def failing_first(times: int, answer: Any) -> Callable[..., Any]:
    """Return a function that raises Unavailable this often before it returns `answer`."""
    left = iter(range(times))

    def call(*_arguments: Any, **_options: Any) -> Any:
        if next(left, None) is not None:
            raise Unavailable("the platform does not answer")
        return answer

    return call


@pytest.mark.parametrize(("outage", "fails"), [(5, False), (61, False), (62, True)])
def test_an_outage_is_measured_from_its_first_failure(outage: int, fails: bool):
    time = Time()
    asking = Asking(time.pause, interval_s=1.0, patience_s=60.0, monotonic=time.monotonic)
    time.now = 1000.0  # a call that was answered long ago does not shorten the patience
    call = failing_first(outage, "answer")
    if fails:
        with pytest.raises(Unavailable):
            asking.answered(call)
    else:
        assert asking.answered(call) == "answer"


def test_followed_feedback_outlives_a_short_outage(monkeypatch: pytest.MonkeyPatch):
    time = Time()
    vote = Feedback("chatcmpl-1", "conv-1", "chat", "v-1", AT)
    monkeypatch.setattr(FeedbackGroup, "list", failing_first(10, (vote,)))
    with Client("http://127.0.0.1:9", "k", pause=time.pause, monotonic=time.monotonic) as client:
        assert next(client.feedback.follow()) == vote
    assert time.now == 10.0


def test_a_watched_study_outlives_a_short_outage(monkeypatch: pytest.MonkeyPatch):
    time = Time()
    with Client("http://127.0.0.1:9", "k", pause=time.pause, monotonic=time.monotonic) as client:
        row = type("Row", (), {"studies": {"st-1": {"state": "done", "rows": []}}})()
        monkeypatch.setattr(client.benchmarks, "get", failing_first(10, row))
        assert client.benchmarks.watch_study(Study("bm-1", "st-1"))["state"] == "done"
    assert time.now == 10.0


def test_the_answer_of_another_service_ends_it_at_once():
    time = Time()
    asking = Asking(time.pause, interval_s=1.0, patience_s=60.0, monotonic=time.monotonic)
    with pytest.raises(Unavailable, match="could not be read"):
        asking.answered(lambda: read(Study, {}))
    assert time.now == 0.0
