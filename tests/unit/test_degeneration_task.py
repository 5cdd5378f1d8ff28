"""The degeneration trial's question to the stable version: which stored answers its engine is asked about, and what follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.benchmarks import Form, Plan, Sample
from core.endpoints import Rollout
from core.errors import Refused
from core.ids import SubmissionId, VersionId
from core.ports.benchmark_runner import Progress
from core.programs import RunOutcome
from core.reasons import Reason
from core.settings import TrialPolicy
from core.submissions import Submission, SubmissionState
from core.versions import Decision, TrialReport
from evals.benchmark import gate_plan
from evals.second_model import MOST_ANSWERS
from evals.suite_loader import load_suite
from tasks.start import engine_spec
from tasks.trials import ask_stable, degeneration, gated
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.judging_engine import asked_of, judging
from tests.equipment.openai_server import Engine, Says, Script, engine_that
from tests.equipment.rows import open_rollout, put_submission
from tests.equipment.samples import a_request, a_version

STABLE, CANDIDATE = VersionId("a" * 64), VersionId("c" * 64)
TEXTS = {STABLE: "    return the sum of both of them as one number\n", CANDIDATE: "    zxq zxq zxq zxq zxq zxq zxq zxq zxq zxq\n"}


class Writes:
    """Answers every problem of harbour with one text by version; no answer passes."""

    def run(self, address: str, version: VersionId, plan: Plan, rows: Path, progress: Progress) -> tuple[Sample, ...]:
        del address, rows, progress
        key, text = plan.grid[0].key, TEXTS[version]
        return tuple(
            Sample(one.task_id, key, 0, place, text, text, "stop", len(one.prompt.split()), 9, None, 0.1, RunOutcome.FAILED)
            for place, one in enumerate(load_suite("harbour").problems)
        )


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        env.serve(STABLE)
        env.records.versions.put(a_version(id=CANDIDATE, commit=CANDIDATE[:40]))
        for version in (STABLE, CANDIDATE):
            env.engines.apply(engine_spec(env.here, env.records.versions.get(version)))
        vars(env.here).update(benchmark_runner=Writes())
        for shows in ("show", "record_in_mlflow"):  # they need Prefect's server
            monkeypatch.setattr(f"tasks.gates.{shows}", SimpleNamespace(fn=lambda _id: None))
        yield env


@pytest.fixture
def submission(env: BenchEnv) -> Submission:
    made = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    return put_submission(env.records, made.id, env.clock.now(), state=SubmissionState.RUNNING)


@pytest.fixture
def rollout(env: BenchEnv, submission: Submission) -> Rollout:
    return open_rollout(env.records, id="ro-9", submission=submission.id, candidate=CANDIDATE, stable=STABLE)


def benchmarked(env: BenchEnv, submission: SubmissionId, rollout: Rollout) -> TrialReport:
    return gated(env.here, submission, rollout, gate_plan(TrialPolicy(), Form.COMPLETION), lambda _part, _text: None)


@contextmanager
def stable_engine(monkeypatch: pytest.MonkeyPatch, script: Script) -> Iterator[Engine]:
    """Serve the stable version's engine by a script."""
    with engine_that(script) as engine:
        monkeypatch.setattr("tasks.trials.await_ready", lambda _here, version: {STABLE: engine.address}[version])
        yield engine


def knows_english(word: str) -> float:
    return -9.0 if word == "zxq" else -1.0


def test_answers_that_are_improbable_to_the_stable_version_refuse_the_candidate(
    env: BenchEnv, submission: Submission, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = benchmarked(env, submission.id, rollout)
    with stable_engine(monkeypatch, judging(knows_english)) as engine, pytest.raises(Refused, match="improbable to the stable") as refusal:
        degeneration.fn(submission.id, rollout, report)
    assert refusal.value.reason is Reason.NONSENSE_ANSWERS
    questions = [asked_of(body) for _path, body in engine.asked]
    assert sum(question.endswith(TEXTS[CANDIDATE]) for question in questions) == MOST_ANSWERS
    assert sum(question.endswith(TEXTS[STABLE]) for question in questions) == MOST_ANSWERS


def test_a_stable_version_that_finds_english_improbable_refuses_no_candidate(
    env: BenchEnv, submission: Submission, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = benchmarked(env, submission.id, rollout)
    with stable_engine(monkeypatch, judging(lambda _word: -9.0)):
        judged = degeneration.fn(submission.id, rollout, report)
    assert (judged.decision, judged.findings[-1].name) == (Decision.PASS, "stable_cannot_judge")


def test_an_engine_without_probabilities_of_prompts_refuses_no_candidate(
    env: BenchEnv, submission: Submission, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = benchmarked(env, submission.id, rollout)
    with stable_engine(monkeypatch, lambda _path, _body: Says("a fake engine has no probabilities", status=400)):
        judged = degeneration.fn(submission.id, rollout, report)
    assert judged.decision is Decision.PASS
    assert "a fake engine has no probabilities" in judged.findings[-1].reason


def test_a_first_version_is_judged_by_its_text_alone(env: BenchEnv, submission: Submission, rollout: Rollout) -> None:
    first = replace(rollout, stable=None)
    judged = degeneration.fn(submission.id, first, benchmarked(env, submission.id, first))
    assert [finding.name for finding in judged.findings] == ["no_degeneration", "no_nonsense"]


def test_changed_settings_of_the_gate_leave_nothing_to_ask(env: BenchEnv, submission: Submission, rollout: Rollout) -> None:
    report = benchmarked(env, submission.id, rollout)
    env.here.settings = replace(env.here.settings, trials=replace(env.here.settings.trials, temperature=0.5))
    assert "have changed" in ask_stable(env.here, rollout, STABLE, report).unavailable
