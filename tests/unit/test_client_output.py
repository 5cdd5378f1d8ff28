"""The command line as people read it: rounded numbers, whole ids on narrow screens and in pipes, the overview, exit codes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from core import shown
from core.access import Role
from core.ids import SubmissionId
from core.submissions import Step, StepName, StepState, SubmissionState
from seatrial.cli import main, numbers, output, watching
from seatrial.local import local_stack
from seatrial.types import Submission, read
from serving.engines.processes import identify
from tests.equipment.control_env import ControlEnv, control_env, served
from tests.equipment.rows import put_submission
from tests.equipment.samples import CHAT, NOW, a_benchmark, a_rollout, a_version

Run = Callable[..., Result]
URL = "http://127.0.0.1:5000/#/experiments/3/runs/0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlEnv, str]]:
    with control_env(tmp_path_factory.mktemp("output")) as env, served(env.app) as url:
        yield env, url


@pytest.fixture
def run(platform: tuple[ControlEnv, str]) -> Run:
    env, url = platform
    secret = env.secret(Role.OPERATOR, "olga")

    def invoke(*arguments: str, key: str = secret) -> Result:
        return CliRunner().invoke(main, ["--url", url, "--key", key, *arguments], prog_name="seatrial")

    return invoke


@pytest.mark.parametrize(
    "value", [None, 0.0, 6.939e-18, 0.000123, 0.0423, 0.5, 1.0, 1.2345, 59.7, 99.96, 190.0, 12_345.6, 1e9, 1e30, math.nan]
)
def test_the_client_rounds_as_the_platforms_pages_do(value: float | None) -> None:
    for name in ("number", "part", "chance", "duration", "size"):
        assert getattr(numbers, name)(value) == getattr(shown, name)(value), name


@pytest.mark.parametrize("name", ["pass_at_1", "ttft_s", "tokens_per_s", "loop_rate/t0.2", "weights_bytes", "mean_tokens"])
def test_the_client_names_measurements_as_the_platforms_pages_do(name: str) -> None:
    assert (numbers.label(name), numbers.measure(name, 0.25)) == (shown.label(name), shown.measure(name, 0.25))
    assert numbers.headline({name: 0.25}) == shown.headline({name: 0.25})


def test_json_stays_exact(run: Run, platform: tuple[ControlEnv, str]) -> None:
    row = a_benchmark(1, numbers={"pass_at_1": 1 / 3})
    platform[0].records.benchmarks.create(row)
    assert json.loads(run("bench", "list", "--json").stdout)[0]["numbers"]["pass_at_1"] == 1 / 3
    assert "33.3 %" in run("bench", "list").stdout


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A terminal of so many columns."""
    width = int(request.param)
    monkeypatch.setattr(output, "fresh_console", lambda: Console(force_terminal=True, width=width, highlight=False, no_color=True))
    return width


ROWS = (
    ("sub-01m8ed6p0swxywt2d2b2afqbk8", "demo/steady", "chat", "rolled_back", "operator", "8 min 55 s ago"),
    ("sub-01m8ed6rxmts4yxmf5k6zxz9n5", "org/a-model-with-a-rather-long-name@main", "talk", "serving", "ann", "3 d 4 h ago"),
)
COLUMNS = ("SUBMISSION", "MODEL", "ENDPOINT", "STATE", "SUBMITTER", "WHEN")


@pytest.mark.parametrize("narrow", [40, 60, 80, 120, 200], indirect=True)
def test_ids_and_names_are_whole_on_one_line_at_every_width(narrow: int, capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(COLUMNS, ROWS, empty="none")
    lines = capsys.readouterr().out.splitlines()
    for cell in (cell for row in ROWS for cell in row):
        assert any(cell in line for line in lines), f"{cell} is folded or cut at {narrow} columns"


@pytest.mark.parametrize("narrow", [40, 60, 100], indirect=True)
@pytest.mark.usefixtures("narrow")
def test_only_prose_wraps(capsys: pytest.CaptureFixture[str]) -> None:
    comment = " ".join(["quite a long comment of a user"] * 5)
    output.show_table(("COMPLETION", "COMMENT"), [("chatcmpl-01m8ed6p0swxywt2", comment)], empty="none")
    text = capsys.readouterr().out
    assert "chatcmpl-01m8ed6p0swxywt2" in text
    assert " ".join(text.replace("chatcmpl-01m8ed6p0swxywt2", "").split()).count("quite a long comment of a user") == 5


def test_a_table_in_a_pipe_has_whole_values_between_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(COLUMNS, ROWS, empty="none")
    assert capsys.readouterr().out.splitlines()[1].split("\t") == list(ROWS[0])


@pytest.mark.parametrize("width", ["40", "60"])
def test_a_submission_is_shown_with_whole_ids_urls_and_messages(
    run: Run, platform: tuple[ControlEnv, str], width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    submission = run("submit", "org/model", "-e", "chat").stdout.strip()
    step = Step(StepName.REGISTER, StepState.DONE, 1, NOW, NOW + 2, message=f"in MLflow: {URL}")
    platform[0].records.submissions.step(SubmissionId(submission), step)
    lines = run("status", submission).stdout.splitlines()
    assert any(submission in line for line in lines)
    assert any(URL in line for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_steps_on_a_terminal_do_not_fold_a_url(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 11, 27, tzinfo=UTC)
    began, ended = at.isoformat(), (at + timedelta(seconds=70)).isoformat()
    said = "chat at http://127.0.0.1:8800/v1 with model 'chat'"
    step = {"name": "announce", "state": "done", "attempt": 1, "started_at": began, "ended_at": ended, "message": said}
    names = {"id": "sub-1", "model": "m", "endpoint": "chat", "state": "serving"}
    document = {**names, "created_at": began, "updated_at": ended}
    one = read(Submission, {**document, "steps": [step]})
    watching.show_steps(Console(force_terminal=True, width=width, highlight=False, no_color=True), one)
    text = capsys.readouterr().out
    assert "http://127.0.0.1:8800/v1" in text
    assert "1 min 10 s" in text


def test_the_overview_counts_problems_and_lists_endpoints_and_submissions(run: Run, platform: tuple[ControlEnv, str]) -> None:
    env = platform[0]
    env.records.versions.put(a_version())
    env.records.endpoints.ensure(CHAT, NOW)
    submission = run("submit", "org/model", "-e", "chat").stdout.strip()
    text = run("status").stdout
    assert "problems: 1 critical" in text
    assert "seatrial status --problems" in text
    assert submission in text
    assert set(json.loads(run("status", "--json").stdout)) == {"problems", "endpoints", "submissions"}


def test_a_submitter_sees_the_overview_without_the_problems(run: Run, platform: tuple[ControlEnv, str]) -> None:
    secret = platform[0].secret(Role.SUBMITTER, "sue")
    shown_to_them = run("status", key=secret)
    assert (shown_to_them.exit_code, "problems:" in shown_to_them.stdout) == (0, False)
    assert run("status", "--problems", key=secret).exit_code == 3


def test_problems_are_shown_with_cause_and_next_command_and_exit_1(run: Run) -> None:
    done = run("status", "--problems")
    assert done.exit_code == 1
    assert "critical runner silent: runner" in done.stdout
    assert "  why:  no flow runner has ever asked Prefect for work" in done.stdout
    assert "  next: seatrial doctor" in done.stdout
    document = json.loads(run("status", "--problems", "--json").stdout)
    assert (document["healthy"], document["problems"][0]["kind"]) == (False, "runner_silent")


class Healthy:
    """Surroundings in which all is well."""

    def services(self) -> tuple[()]:
        return ()

    def runner_seen(self) -> float:
        return datetime.now(UTC).timestamp()

    def disk(self) -> None:
        return None

    def spool(self) -> None:
        return None


def test_a_healthy_platform_exits_0_also_with_notices(tmp_path: Path) -> None:
    with control_env(tmp_path) as env, served(env.app) as url:
        env.app.state.context = replace(env.app.state.context, probes=Healthy())
        ask = ["--url", url, "--key", env.secret(Role.OPERATOR), "status", "--problems"]
        done = CliRunner().invoke(main, ask)
        assert (done.exit_code, done.stdout) == (0, "no problems\n")
        row = env.client(Role.OPERATOR).post("/v1/submissions", json={"model": "org/model", "endpoint": "chat"}).json()
        now = datetime.now(UTC).timestamp()
        put_submission(env.records, SubmissionId(row["id"]), now, state=SubmissionState.REFUSED, message="no licence")
        done = CliRunner().invoke(main, ask)
        assert (done.exit_code, "notice submission refused" in done.stdout) == (0, True)


def left_by_up(home: Path, alive: tuple[str, ...]) -> None:
    """Leave what `seatrial up` leaves: of the services only `alive` run (as this process)."""
    me = identify(os.getpid())
    assert me is not None
    living, dead = {"pid": me.pid, "started": me.started, "boot": me.boot}, {"pid": me.pid, "started": 1, "boot": me.boot}
    services = {name: living if name in alive else dead for name in ("prefect", "control", "runner")}
    (home / "run").mkdir(parents=True)
    (home / "run" / "stack.json").write_text(json.dumps({"supervisor": living if alive else dead, "services": services, "ports": {}}))
    (home / "key").write_text("st-left\n")
    client = {"control_url": "http://127.0.0.1:9", "gateway_url": "http://127.0.0.1:9", "key_file": str(home / "key")}
    (home / "run" / "client.json").write_text(json.dumps(client))


@pytest.mark.parametrize(
    ("alive", "told", "following"),
    [
        ((), "is not running", "start it: seatrial up"),
        (("prefect", "runner"), "control is not running", "control.log"),
        (("prefect", "runner", "control"), "does not answer", "control.log"),
    ],
    ids=["nothing runs", "the control API is down", "all run"],
)
def test_a_platform_that_does_not_answer_exits_6_and_names_what_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: tuple[str, ...], told: str, following: str
) -> None:
    left_by_up(tmp_path, alive)
    monkeypatch.setenv("SEATRIAL_HOME", str(tmp_path))
    for name in ("SEATRIAL_URL", "SEATRIAL_KEY"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(main, ["status", "--problems"])
    assert done.exit_code == 6
    assert told in done.stderr
    assert following in done.stderr


def test_a_home_without_a_stack_has_none(tmp_path: Path) -> None:
    assert local_stack(tmp_path) is None


EXIT_CODES = [
    (["status", "sub-none"], 4),
    (["status", "--watch"], 2),
    (["status", "sub-none", "--problems"], 2),
    (["status", "sub-none", "--watch"], 4),
    (["submissions", "--state", "nonsense"], 1),
    (["logs", "sub-none"], 4),
    (["cancel", "sub-none"], 4),
    (["models", "a" * 64], 4),
    (["endpoints", "set", "none"], 2),
    (["endpoints", "set", "none", "--temperature", "0.5"], 4),
    (["endpoints", "remove", "none", "--yes"], 4),
    (["rollouts", "ro-none"], 4),
    (["rollback", "none"], 4),
    (["bench", "none"], 4),
    (["bench", "show", "bm-none"], 4),
    (["bench", "show", "bm-none", "--watch"], 4),
    (["bench", "compare", "bm-none", "bm-none"], 4),
    (["bench", "answers", "bm-none"], 4),
    (["bench", "cancel", "bm-none"], 4),
    (["bench", "power", "--problems", "10"], 2),
    (["keys", "create"], 2),
    (["keys", "revoke", "key-none"], 4),
    (["feedback", "give", "chatcmpl-1"], 2),
    (["feedback", "give", "chatcmpl-1", "--up"], 6),
    (["chat", "chat", "hello"], 6),
    (["completion", "nonsense"], 2),
    (["--version"], 0),
]


@pytest.mark.parametrize(("arguments", "code"), EXIT_CODES, ids=lambda value: " ".join(value) if isinstance(value, list) else str(value))
def test_every_command_exits_as_documented(run: Run, arguments: list[str], code: int) -> None:
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception


@pytest.mark.parametrize("words", [["status"], ["submissions"], ["models"], ["bench", "list"], ["keys", "list"], ["whoami"]], ids=" ".join)
def test_every_command_exits_3_with_an_unknown_key_and_6_without_a_platform(run: Run, words: list[str]) -> None:
    assert run(*words, key="st-unknown").exit_code == 3
    assert CliRunner().invoke(main, ["--url", "http://127.0.0.1:9", "--key", "k", *words]).exit_code == 6


@pytest.mark.parametrize("state", [SubmissionState.REFUSED, SubmissionState.FAILED, SubmissionState.ROLLED_BACK, SubmissionState.CANCELLED])
def test_watching_exits_1_whatever_else_than_serving_it_ends_as(run: Run, platform: tuple[ControlEnv, str], state: SubmissionState) -> None:
    submission = run("submit", "org/model", "-e", "chat").stdout.strip()
    put_submission(platform[0].records, SubmissionId(submission), NOW, state=state)
    assert run("status", submission, "--watch").exit_code == 1


def test_interrupting_exits_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seatrial.client.Client.whoami", interrupted)
    assert run("whoami").exit_code == 130


def test_interrupting_a_question_exits_130_and_a_no_exits_1(
    run: Run, platform: tuple[ControlEnv, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform[0].records.endpoints.ensure(CHAT, NOW)

    def interrupted(*_arguments: object, **_options: object) -> bool:
        raise click.Abort

    assert run("endpoints", "remove", "chat").exit_code == 130, "the end of input is no answer"
    monkeypatch.setattr(click, "confirm", interrupted)
    assert run("endpoints", "remove", "chat").exit_code == 130


def test_the_version_is_shown() -> None:
    assert CliRunner().invoke(main, ["--version"], prog_name="seatrial").stdout.startswith("seatrial, version ")


def test_a_rollouts_numbers_are_rounded(run: Run, platform: tuple[ControlEnv, str]) -> None:
    from core.endpoints import Cohort, Verdict  # noqa: PLC0415
    from core.versions import Decision  # noqa: PLC0415

    env = platform[0]
    env.records.endpoints.ensure(CHAT, NOW)
    opened = env.records.rollouts.open(a_rollout())
    verdict = Verdict(Decision.INCONCLUSIVE, "3 of 12", Cohort(12_345, ttft_p95_s=0.0421234), Cohort(3), e_value=6.939e-18)
    env.records.rollouts.store(replace(opened, verdict=verdict))
    text = run("rollouts", opened.id).stdout
    assert "12,345" in text
    assert "42 ms" in text
    assert "e-939" not in text
    assert "6.9" not in text
