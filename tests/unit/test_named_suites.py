"""A malformed suite is refused when it is named: by a benchmark, a study, a submission, or a setting when the stack starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from core.access import Role
from core.benchmarks import BenchmarkState
from core.errors import Refused
from core.ids import BenchmarkId
from core.settings import BenchmarkPolicy, Settings, TrialPolicy, read_settings
from evals.suite_loader import load_suite
from tests.equipment.control_env import ControlEnv, control_env
from tests.equipment.samples import CHAT, NOW, STABLE, a_benchmark, a_plan, a_version
from wiring.suites import ReadSuites

GOOD = {"task_id": "t/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1)\n"}
BAD = {**GOOD, "test": "def check(candidate):\n    assert ("}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of one problem."""
    return written(tmp_path / "own.jsonl", GOOD)


@pytest.fixture
def env(tmp_path: Path, suite: Path) -> Iterator[ControlEnv]:
    """A control API whose gate asks that suite."""
    settings = replace(read_settings({"HOME": str(tmp_path)}, home=tmp_path), trials=TrialPolicy(suite=str(suite)))
    with control_env(tmp_path, ReadSuites(settings)) as env:
        env.records.versions.put(a_version(id=STABLE))
        env.records.endpoints.ensure(CHAT, NOW)
        yield env


def written(path: Path, row: dict[str, str]) -> Path:
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["reason"]


def test_a_benchmark_of_a_malformed_suite_is_refused_with_its_line_and_stores_nothing(env: ControlEnv, suite: Path):
    written(suite, BAD)
    answers = [env.client(Role.OPERATOR).post("/v1/benchmarks", json={"target": STABLE, "suite": str(suite)}) for _ in range(9)]
    assert {refusal(answer) for answer in answers} == {(422, "bad_suite")}, "nine refusals, and not one 'too many'"
    assert "line 1: its test is not valid Python" in answers[0].json()["error"]["message"]
    assert env.records.benchmarks.find() == ()


def test_a_benchmark_of_an_unknown_suite_is_refused_with_the_known_ones(env: ControlEnv):
    answer = env.client(Role.OPERATOR).post("/v1/benchmarks", json={"target": STABLE, "suite": "nonesuch"})
    assert refusal(answer) == (422, "bad_suite")
    assert "harbour" in answer.json()["error"]["hint"]


def test_a_benchmark_of_a_sound_suite_starts(env: ControlEnv, suite: Path):
    assert env.client(Role.OPERATOR).post("/v1/benchmarks", json={"target": STABLE, "suite": str(suite)}).status_code == 201


def test_a_task_of_lm_eval_is_read_by_its_run(env: ControlEnv):
    assert env.client(Role.OPERATOR).post("/v1/benchmarks", json={"target": STABLE, "suite": "lmeval:gsm8k"}).status_code == 201


def test_a_submission_whose_gate_cannot_be_asked_is_refused_and_stores_nothing(env: ControlEnv, suite: Path):
    suite.with_suffix(".suite.toml").write_text("max_token = 9")
    answer = env.client(Role.SUBMITTER).post("/v1/submissions", json={"model": "org/model", "endpoint": CHAT})
    assert refusal(answer) == (422, "bad_suite")
    assert "SEATRIAL_TRIALS_SUITE" in answer.json()["error"]["message"]
    assert env.records.submissions.find() == ()


def test_a_submission_with_a_sound_gate_starts(env: ControlEnv):
    assert env.client(Role.SUBMITTER).post("/v1/submissions", json={"model": "org/model", "endpoint": CHAT}).status_code == 201


def test_a_study_of_a_suite_that_has_changed_is_refused(env: ControlEnv, suite: Path):
    plan = a_plan(suite=str(suite), suite_digest=load_suite(str(suite)).digest)
    env.records.benchmarks.create(a_benchmark(id=BenchmarkId("bm-1"), plan=plan, state=BenchmarkState.DONE, ended_at=NOW))
    written(suite, {**GOOD, "task_id": "t/1"})
    answer = env.client(Role.OPERATOR).post("/v1/benchmarks/bm-1/studies", json={"best_of": [1]})
    assert refusal(answer) == (422, "suite_changed")
    assert env.runs.studies == []


@pytest.mark.parametrize(
    ("setting", "policies"),
    [
        ("SEATRIAL_TRIALS_SUITE", {"trials": TrialPolicy(suite="nonesuch")}),
        ("SEATRIAL_BENCHMARKS_SUITE", {"benchmarks": BenchmarkPolicy(suite="nonesuch")}),
    ],
)
def test_a_setting_that_names_no_suite_is_refused_at_the_start(tmp_path: Path, setting: str, policies: dict[str, Any]):
    settings: Settings = replace(read_settings({"HOME": str(tmp_path)}, home=tmp_path), **policies)
    with pytest.raises(Refused, match=f"{setting} is 'nonesuch'") as refused:
        ReadSuites(settings).check_settings()
    assert refused.value.reason == "bad_suite"


def test_up_ends_at_once_where_the_gates_suite_is_malformed(tmp_path: Path, suite: Path):
    from seatrial.cli import main  # noqa: PLC0415 - the whole command line, with the platform's commands

    written(suite, BAD)
    home = tmp_path / "home"
    ended = CliRunner().invoke(main, ["up", "--home", str(home)], env={"SEATRIAL_TRIALS_SUITE": str(suite)}, catch_exceptions=False)
    assert ended.exit_code == 1
    assert "SEATRIAL_TRIALS_SUITE" in ended.output
    assert not (home / "run").exists()
