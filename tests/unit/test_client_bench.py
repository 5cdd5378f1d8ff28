"""`seatrial bench` and `seatrial endpoints set` against the real control API on a loopback port."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.access import Role
from core.benchmarks import BenchmarkState, Sampling
from core.endpoints import RolloutState
from core.ids import BenchmarkId, SubmissionId
from core.versions import Decision
from seatrial import Client
from seatrial.cli import main
from seatrial.cli.plots import around_zero, bar, interval
from seatrial.types import Study
from tests.equipment.control_env import ControlEnv, control_env, served
from tests.equipment.rows import put_benchmark
from tests.equipment.samples import CHAT, NOW, STABLE, a_benchmark, a_plan, a_rollout, a_sample, a_version

Run = Callable[..., Result]
GRID = (Sampling(0.2), Sampling(0.8))
NUMBERS = {
    f"{name}/{point.key}": value
    for point in GRID
    for name, value in {"pass_at_1": 0.5, "low": 0.3, "high": 0.7, "pass_at_2": 0.6, "loop_rate": 0.1}.items()
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlEnv, str]]:
    with control_env(tmp_path_factory.mktemp("bench")) as env, served(env.app) as url:
        env.records.versions.put(a_version(id=STABLE))
        env.records.endpoints.ensure(CHAT, NOW)
        opened = env.records.rollouts.open(a_rollout(submission=SubmissionId("sub-0"), candidate=STABLE))
        env.records.rollouts.store(replace(opened, state=RolloutState.PROMOTED))
        for name, passed in (("bm-good", 9), ("bm-bad", 3)):
            row = a_benchmark(
                id=BenchmarkId(name), plan=a_plan(grid=GRID), state=BenchmarkState.DONE, ended_at=NOW + 9, numbers=NUMBERS,
                baseline=BenchmarkId("bm-good") if name == "bm-bad" else None,
                decision=Decision.FAIL if name == "bm-bad" else Decision.PASS,
            )  # fmt: skip
            answers = [
                a_sample(p, i, passed=p < passed, sampling=s.key, text=f"{name} {p} {i}\x1b[2J")
                for s in GRID
                for p in range(12)
                for i in (0, 1)
            ]
            env.answers.pack(row.id, answers)
            env.records.benchmarks.create(row)
        yield env, url


@pytest.fixture
def env(platform: tuple[ControlEnv, str]) -> ControlEnv:
    return platform[0]


@pytest.fixture
def run(platform: tuple[ControlEnv, str]) -> Run:
    secret = platform[0].secret(Role.OPERATOR, "olga")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--url", platform[1], "--key", secret, *arguments], prog_name="seatrial")

    return invoke


@pytest.fixture
def client(platform: tuple[ControlEnv, str]) -> Iterator[Client]:
    with Client(platform[1], platform[0].secret(Role.OPERATOR, "olga"), pause=lambda _seconds: None) as client:
        yield client


def cancel_all(env: ControlEnv) -> None:
    for row in env.records.benchmarks.find(states=[BenchmarkState.RUNNING]):
        put_benchmark(env.records, row.id, NOW, state=BenchmarkState.FAILED)


@pytest.mark.parametrize("words", [["bench"], ["bench", "run"]], ids=" ".join)
def test_a_benchmark_is_started_with_or_without_the_word_run(run: Run, env: ControlEnv, words: list[str]):
    done = run(
        *words, "chat", "--suite", "humaneval", "-n", "20", "--temperature", "0.2,0.8", "--frequency-penalty", "0,0.5", "--form", "chat"
    )
    assert done.exit_code == 0, done.output
    row = env.records.benchmarks.get(BenchmarkId(done.stdout.strip()))
    assert (row.plan.suite, row.plan.samples, len(row.plan.grid), row.plan.form) == ("humaneval", 20, 4, "chat")
    assert "bench show" in done.stderr
    cancel_all(env)


def test_options_may_stand_before_the_target(run: Run, env: ControlEnv):
    done = run("bench", "--suite", "harbour", "--json", "chat")
    assert json.loads(done.stdout)["endpoint"] == "chat"
    cancel_all(env)


def test_a_suite_s_file_is_made_absolute(run: Run, env: ControlEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    assert json.loads(run("bench", "chat", "--suite", "mine.jsonl", "--json").stdout)["suite"] == str(tmp_path / "mine.jsonl")
    cancel_all(env)


def test_show_prints_the_grid_with_bars_and_the_problems_that_fail(run: Run):
    done = run("bench", "show", "bm-bad")
    assert done.exit_code == 0, done.output
    for said in ("t0.2-f0-p1-m512", "50.0 %", "30.0 % to 70.0 %", "●", "@2 60.0 %", "suite/5", "f(5) is 2, not 1", "0/2", "100.0 %"):
        assert said in done.stdout, said
    assert "suite/1\t" not in done.stdout
    assert "suite/1\t" in run("bench", "show", "bm-bad", "--all").stdout
    assert "\x1b" not in done.stdout


def test_show_with_json_is_one_document_with_every_problem(run: Run):
    document = json.loads(run("bench", "show", "bm-bad", "--json").stdout)
    assert (document["benchmark"]["decision"], len(document["problems"])) == ("fail", 24)


@pytest.mark.parametrize(("name", "code"), [("bm-good", 0), ("bm-bad", 1)])
def test_watching_exits_by_the_verdict(run: Run, name: str, code: int):
    assert run("bench", "show", name, "--watch").exit_code == code


def test_compare_prints_the_difference_its_bounds_and_what_was_lost(run: Run):
    done = run("bench", "compare", "bm-bad", "bm-good")
    for said in ("fail", "-50.0 points", "lost: 6: suite/", "won: 0", "●", "worse", "better"):
        assert said in done.stdout, said
    assert json.loads(run("bench", "compare", "bm-bad", "bm-good", "--json").stdout)["found"]["decision"] == "fail"


def test_list_shows_what_there_is_and_can_be_narrowed(run: Run):
    assert "bm-good" in run("bench", "list", "--endpoint", "chat", "--state", "done").stdout
    assert run("bench", "list", "--endpoint", "other").stdout == "no benchmarks\n"


def test_power_speaks_both_ways(run: Run):
    assert "20 samples of 164 problems detect a drop of" in run("bench", "power", "--problems", "164", "--samples", "20").stdout
    assert "3.0 points" in run("bench", "power", "--problems", "164", "--points", "3").stdout
    assert run("bench", "power", "--problems", "164").exit_code == 2


def test_answers_show_the_text_without_its_escape_sequences(run: Run):
    done = run("bench", "answers", "bm-bad", "--problem", "suite/5")
    assert "  | bm-bad 5 0" in done.stdout
    assert "first failing check: f(5) is 2, not 1" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_running_benchmark_can_be_cancelled(run: Run):
    made = run("bench", "chat").stdout.strip()
    assert run("bench", "cancel", made).stdout == f"{made}: cancelled by olga\n"
    assert run("bench", "cancel", made).exit_code == 5


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["bench", "show", "bm-none"], 4),
        (["bench", "compare", "bm-none", "bm-good"], 4),
        (["bench", "answers", "bm-good", "-p", "none"], 4),
        (["bench", "nobody-serves-this"], 4),
        (["bench"], 2),
        (["bench", "chat", "--temperature", "hot"], 2),
        (["bench", "chat", "--suite", "/no/such.jsonl"], 1),
        (["bench", "study", "bm-good", "--best-of", "many"], 2),
        (["endpoints", "set", "chat"], 2),
        (["endpoints", "set", "none", "--best-of", "2"], 4),
        (["endpoints", "set", "chat", "--temperature", "9"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes_are_stable(run: Run, arguments: list[str], code: int):
    done = run(*arguments)
    assert done.exit_code == code, done.output


def test_a_study_is_started_and_its_table_is_waited_for(client: Client, env: ControlEnv):
    made = client.benchmarks.study("bm-good", best_of=[1, 4])
    document: dict[str, Any] = {"state": "done", "rows": [{"policy": "random", "best_of": 4, "pass_rate": 0.5}]}
    put_benchmark(env.records, BenchmarkId("bm-good"), NOW, studies={made.study: document})
    assert client.benchmarks.watch_study(made)["rows"] == document["rows"]
    assert isinstance(made, Study)


def test_an_endpoint_s_policy_is_set_and_shown_and_taken_back(run: Run):
    done = run(
        "endpoints", "set", "chat", "--temperature", "0.3", "--best-of", "4", "--policy", "mean_logprob", "--on-regression", "rollback"
    )
    assert done.stdout == "chat: temperature 0.3, best of 4 by mean_logprob, rollback on regression\n"
    assert "best of 4" in run("endpoints").stdout
    assert run("endpoints", "set", "chat", "--temperature", "none", "--best-of", "1").stdout == "chat: rollback on regression\n"


def test_the_sdk_reads_what_it_started(client: Client, env: ControlEnv):
    made = client.benchmarks.start("chat", samples=2, temperature=[0.2])
    assert client.benchmarks.get(made.id) == made
    assert not made.ended
    assert client.benchmarks.cancel(made.id).ended
    assert [last.id for last in client.benchmarks.watch(made.id)] == [made.id]
    assert client.benchmarks.problems("bm-good")[0].rate == 1.0
    assert client.benchmarks.power(164, samples=20).points > 1
    cancel_all(env)


@pytest.mark.parametrize(("value", "drawn"), [(0.0, "    "), (0.5, "██  "), (1.0, "████"), (0.2, "▊   "), (None, "")])
def test_bars_are_drawn_in_eighths(value: float | None, drawn: str):
    assert bar(value, 4) == drawn


def test_intervals_show_score_and_bounds():
    assert interval(0.0, 0.5, 1.0, 11) == "├────●────┤"
    assert interval(None, 0.5, None, 4) == "██  "


def test_a_difference_is_drawn_around_zero_with_the_margin():
    drawn = around_zero({"low": -0.1, "difference": -0.05, "high": 0.0, "margin": 0.1}, 21)
    assert len(drawn) == 21
    assert drawn.index("├") < drawn.index("●") < drawn.index("┤")
