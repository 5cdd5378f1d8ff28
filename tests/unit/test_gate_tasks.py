"""The gate's step on doubles of engines and benchmark runner: what is asked of whom, and what is written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.benchmarks import BenchmarkState, Form, Plan, Sample, Trigger
from core.errors import Refused
from core.ids import Digest, EndpointName, RolloutId, SubmissionId, VersionId
from core.ports.benchmark_runner import Progress
from core.programs import RunOutcome
from core.settings import TrialPolicy
from core.versions import Decision, TrialKind
from evals.benchmark import benchmark_key, gate_plan
from tasks.start import engine_spec
from tasks.trials import answered, gated, own_form, said_of, stable_report
from tests.equipment.bench_env import BenchEnv
from tests.equipment.samples import a_rollout, a_version

CHAT = EndpointName("chat")
STABLE, CANDIDATE = VersionId("a" * 64), VersionId("c" * 64)
ROLLOUT = a_rollout(id=RolloutId("ro-9"), endpoint=CHAT, candidate=CANDIDATE, stable=STABLE)
SUBMISSION = SubmissionId("sub-9")


class Solves:
    """Answers that solve the first `solves` of 20 problems, by version."""

    def __init__(self, solves: dict[VersionId, int]) -> None:
        self.solves = solves
        self.asked: list[tuple[VersionId, int]] = []
        self.forms: dict[VersionId, Form] = {}

    def pin(self, asked: Plan, own: Form) -> Plan:
        del own
        return asked

    def run(self, address: str, version: VersionId, plan: Plan, rows: Path, progress: Progress) -> tuple[Sample, ...]:
        self.asked.append((version, plan.samples))
        self.forms[version] = plan.form
        if version not in self.solves:
            raise Refused("no such engine")
        key, said = plan.grid[0].key, f"said by {version[0]}"
        return tuple(
            Sample(f"t/{n}", key, index, 100 * n + index, said, said, "stop", 1, 9, None, 0.1, self._of(version, n))
            for n in range(20)
            for index in range(plan.samples)
        )

    def _of(self, version: VersionId, number: int) -> RunOutcome:
        return RunOutcome.PASSED if number < self.solves[version] else RunOutcome.FAILED


@pytest.fixture
def env(tmp_path: Path) -> BenchEnv:
    env = BenchEnv(tmp_path)
    env.serve(STABLE)
    env.records.versions.put(a_version(id=CANDIDATE, commit=CANDIDATE[:40]))
    for version in (STABLE, CANDIDATE):
        env.engines.apply(engine_spec(env.here, env.records.versions.get(version)))
    return env


def examined(env: BenchEnv, solves: dict[VersionId, int]) -> Solves:
    benchmark_runner = Solves(solves)
    vars(env.here).update(benchmark_runner=benchmark_runner)
    return benchmark_runner


def said(_part: float, _text: str) -> None:
    """Take progress."""


def test_gate_asks_both_versions_by_one_plan_and_writes_both_down(env: BenchEnv):
    benchmark_runner = examined(env, {STABLE: 20, CANDIDATE: 7})
    plan = gate_plan(TrialPolicy(), Form.COMPLETION)
    judged = gated(env.here, SUBMISSION, ROLLOUT, plan, said)
    assert judged.decision is Decision.FAIL
    assert benchmark_runner.asked == [(CANDIDATE, 1), (STABLE, 1)]
    (ours,) = env.records.benchmarks.find(version=CANDIDATE, plan=plan.key)
    (theirs,) = env.records.benchmarks.find(version=STABLE, plan=plan.key)
    assert (ours.trigger, ours.state, ours.decision, ours.baseline) == (Trigger.GATE, BenchmarkState.DONE, Decision.FAIL, theirs.id)
    assert ours.comparison["difference"] == pytest.approx(-0.65)
    assert theirs.decision is Decision.INCONCLUSIVE
    assert env.records.versions.reports(STABLE, TrialKind.BENCHMARK, benchmark_key(plan))


def test_gate_that_is_tried_again_asks_nothing_twice(env: BenchEnv):
    benchmark_runner = examined(env, {STABLE: 20, CANDIDATE: 20})
    plan = gate_plan(TrialPolicy(), Form.COMPLETION)
    first = gated(env.here, SUBMISSION, ROLLOUT, plan, said)
    again = gated(env.here, SUBMISSION, ROLLOUT, plan, said)
    assert (again.decision, again.numbers["pass_at_1"]) == (first.decision, 1.0)
    assert len(benchmark_runner.asked) == 2


def test_the_stable_version_that_sleeps_is_woken_for_its_baseline(env: BenchEnv):
    benchmark_runner = examined(env, {STABLE: 20, CANDIDATE: 20})
    vars(env.here).update(activator=env.engines)
    env.engines.sleep(STABLE)
    gated(env.here, SUBMISSION, ROLLOUT, gate_plan(TrialPolicy(), Form.COMPLETION), said)
    assert env.engines.woken == [STABLE]
    assert [version for version, _ in benchmark_runner.asked] == [CANDIDATE, STABLE]


def test_gate_that_cannot_ask_writes_down_why(env: BenchEnv):
    examined(env, {})
    with pytest.raises(Refused, match="no such engine"):
        answered(env.here, SUBMISSION, ROLLOUT, CANDIDATE, gate_plan(TrialPolicy(), Form.COMPLETION), said)
    (row,) = env.records.benchmarks.find(version=CANDIDATE)
    assert (row.state, "no such engine" in row.reason) == (BenchmarkState.FAILED, True)


def test_each_version_is_asked_in_its_own_form_and_compared_problem_by_problem(env: BenchEnv):
    chatty = VersionId("d" * 64)
    env.records.versions.put(a_version(id=chatty, commit=chatty[:40], chat_template=Digest("7" * 64)))
    env.engines.apply(engine_spec(env.here, env.records.versions.get(chatty)))
    benchmark_runner = examined(env, {STABLE: 20, chatty: 7})
    rollout = replace(ROLLOUT, candidate=chatty)
    plan = gate_plan(TrialPolicy(), own_form(env.here, chatty))
    judged = gated(env.here, SUBMISSION, rollout, plan, said)
    assert benchmark_runner.forms == {chatty: Form.CHAT, STABLE: Form.COMPLETION}
    assert (judged.decision, judged.numbers["lost"]) == (Decision.FAIL, 13)
    found = stable_report(env.here, rollout, judged)
    assert found is not None
    assert (found.version, found.numbers["pass_at_1"]) == (STABLE, 1.0)


def test_a_first_version_that_solves_nothing_is_promoted_with_a_warning_in_its_step(env: BenchEnv):
    examined(env, {CANDIDATE: 0})
    rollout = replace(ROLLOUT, stable=None)
    judged = gated(env.here, SUBMISSION, rollout, gate_plan(TrialPolicy(), Form.COMPLETION), said)
    assert judged.decision is Decision.PASS
    assert "warning: the model solves none of 20 problems" in said_of(judged)
    assert "SEATRIAL_TRIALS_MIN_SCORE" in said_of(judged)
