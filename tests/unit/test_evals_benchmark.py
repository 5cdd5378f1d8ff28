"""A score is a report of every answer; the gate holds it against the stable version's answers to the same plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from core.benchmarks import Flaw, Form, Plan, Sample, Sampling, aligned, same_questions
from core.errors import Fault, Refused
from core.ids import VersionId
from core.programs import RunOutcome
from core.settings import TrialPolicy
from core.versions import Decision, TrialReport
from evals.benchmark import UNSOLVED, benchmark_key, gate_benchmark, gate_plan, key_in_form, score_benchmark, wider_plan
from evals.statistics import wilson

VERSION = VersionId("b" * 64)
POLICY = TrialPolicy()
PLAN = gate_plan(POLICY, Form.COMPLETION)
PASSED, FAILED, FAULT = RunOutcome.PASSED, RunOutcome.FAILED, RunOutcome.SANDBOX_FAULT


def sample(task: int, outcome: RunOutcome, index: int = 0, flaws: tuple[Flaw, ...] = ()) -> Sample:
    text = f"return {task} {outcome} {index}"
    return Sample(
        str(task), "t0", index, 10 * task + index, text, text, "stop", 7, 12, -0.5, 0.1, outcome, "assert it" if outcome is FAILED else "",
        0.01, "seccomp", flaws,
    )  # fmt: skip


def answers(solved: int, problems: int = 48, samples: int = 1) -> list[Sample]:
    return [sample(task, PASSED if task < solved else FAILED, index) for task in range(problems) for index in range(samples)]


def score(samples: Sequence[Sample]) -> TrialReport:
    return score_benchmark(VERSION, PLAN, samples, 2.0, 1_700_000_000.0)


def gated(ours: Sequence[Sample], stable: Sequence[Sample] | None, policy: TrialPolicy = POLICY) -> TrialReport:
    return gate_benchmark(score(ours), ours, stable, policy)


def test_gate_asks_its_suite_once_and_greedily_by_default():
    assert (PLAN.suite, PLAN.samples, PLAN.grid) == ("harbour", 1, (Sampling(max_tokens=200),))
    assert PLAN.prompt == "seatrial-completion@1"
    assert PLAN.stops == ("```", "\n#", "\ndef ", "\nclass ", "\nif ", "\nprint(")


def test_gates_plan_is_a_setting():
    plan = gate_plan(TrialPolicy(samples=4, temperature=0.8), Form.COMPLETION)
    assert (plan.samples, plan.grid[0].temperature) == (4, 0.8)
    assert benchmark_key(plan) != benchmark_key(PLAN)


def test_gate_on_a_suite_that_is_not_there_is_refused():
    with pytest.raises(Refused, match="nonesuch"):
        gate_plan(TrialPolicy(suite="nonesuch"), Form.CHAT)


def test_score_is_the_part_of_problems_that_is_solved_with_a_line_for_every_answer():
    report = score([*answers(3, 5), sample(5, FAILED, flaws=(Flaw.LOOP, Flaw.CUT))])
    assert report.numbers["pass_at_1"] == 0.5
    assert (report.numbers["solved"], report.numbers["problems"]) == (3, 6)
    assert report.numbers["loop_rate"] == pytest.approx(1 / 6)
    assert (report.numbers["low"], report.numbers["high"]) == wilson(3, 6)
    assert report.numbers["tokens_per_s"] == 36
    assert (report.key, report.decision) == (benchmark_key(PLAN), Decision.INCONCLUSIVE)
    rows = report.detail["rows"]
    assert [row["outcome"] for row in rows] == ["passed"] * 3 + ["failed"] * 3
    assert (rows[4]["detail"], rows[4]["completion"], rows[4]["seconds"]) == ("assert it", "return 4 failed 0", 0.1)
    assert (rows[5]["looped"], rows[5]["flaws"]) == (True, ["loop", "cut"])
    json.dumps(report.detail)


def test_answers_of_which_none_could_be_judged_are_no_score():
    with pytest.raises(Fault, match="none of 2 answers"):
        score([sample(0, FAULT), sample(1, FAULT)])


def test_candidate_that_is_worse_is_refused_with_both_intervals_and_the_difference():
    judged = gated(answers(17), answers(48))
    assert judged.decision is Decision.FAIL
    failure = judged.first_failure()
    assert failure is not None
    assert failure.name == "benchmark_below_stable"
    assert failure.reason.startswith(
        "pass@1 0.35 [0.23, 0.50] is below the stable version's 1.00 [0.93, 1.00] by more than 0.05: difference -0.65 ["
    )
    assert failure.reason.endswith("31 problems lost, 0 won")
    assert failure.hint
    assert (judged.numbers["lost"], judged.numbers["won"]) == (31, 0)
    assert judged.numbers["difference_low"] < judged.numbers["difference"] < judged.numbers["difference_high"] < -0.05
    assert judged.numbers["p_worse"] < 1e-6
    json.dumps(judged.detail)


def test_candidate_that_answers_the_same_passes():
    judged = gated(answers(48), answers(48))
    assert (judged.decision, judged.findings[0].name) == (Decision.PASS, "benchmark_score")


def test_report_shows_what_the_stable_version_did_at_each_problem():
    judged = gated(answers(1, 2), [sample(0, PASSED), sample(0, FAILED, 1), sample(1, FAILED), sample(1, FAILED, 1)])
    assert [row["stable"] for row in judged.detail["rows"]] == [0.5, 0.0]
    assert judged.detail["comparison"]["difference"] == pytest.approx(0.25)


@pytest.mark.parametrize(("ours", "decision"), [(48, Decision.PASS), (44, Decision.PASS), (42, Decision.FAIL), (0, Decision.FAIL)])
def test_a_difference_that_may_be_chance_refuses_nobody(ours: int, decision: Decision):
    assert gated(answers(ours), answers(48)).decision is decision


def test_an_inconclusive_comparison_fails_only_where_an_equal_version_seldom_scores_so_low():
    lost = gated(answers(43), answers(48)).first_failure()
    assert lost is not None
    assert lost.reason.endswith("5 problems lost, 0 won; an equal version has so low a score with probability 0.031")


def test_what_could_not_be_told_says_so_and_what_would_settle_it():
    finding = gated(answers(19, 20), answers(20, 20)).findings[0]
    assert (finding.name, finding.passed) == ("benchmark_inconclusive", True)
    assert finding.reason.startswith("inconclusive: pass@1 0.95 ")
    assert finding.reason.endswith("; 40 answers neither show nor rule out a loss of 0.05")
    assert "SEATRIAL_TRIALS_SAMPLES" in finding.hint
    warm = gated(answers(19, 20), answers(20, 20), TrialPolicy(temperature=0.8)).findings[0]
    assert "SEATRIAL_TRIALS_MAX_SAMPLES is 8" in warm.hint


@pytest.mark.parametrize("rate", [0.9, 0.6, 0.3])
def test_an_equal_version_is_refused_in_at_most_one_of_twenty_gates(rate: float):
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(100):
        ours, theirs = ([sample(task, PASSED if random.random() < rate else FAILED) for task in range(48)] for _side in range(2))
        refused += gated(ours, theirs).decision is Decision.FAIL
    assert refused <= 9  # 100 gates at 5 %: two standard errors are 4


def test_more_samples_are_asked_for_while_the_answers_cannot_tell_up_to_the_most():
    policy = TrialPolicy(samples=3, temperature=0.8, max_samples=8)
    unsure = gated(answers(19, 20), answers(20, 20), policy)
    plan: Plan | None = gate_plan(policy, Form.COMPLETION)
    asked = []
    while plan is not None:
        asked.append(plan.samples)
        plan = wider_plan(plan, unsure, policy)
    assert asked == [3, 6, 8]


def test_greedy_answers_are_not_asked_for_again_nor_where_it_is_clear():
    assert wider_plan(PLAN, gated(answers(19, 20), answers(20, 20)), POLICY) is None
    warm = TrialPolicy(temperature=0.8)
    assert wider_plan(gate_plan(warm, Form.COMPLETION), gated(answers(0), answers(48)), warm) is None
    assert wider_plan(gate_plan(warm, Form.COMPLETION), gated(answers(0), None), warm) is None


def test_answers_that_nobody_could_judge_count_for_nobody():
    ours = [*answers(48)[1:], sample(0, FAULT)]
    judged = gated(ours, answers(48))
    assert judged.decision is Decision.PASS
    assert judged.numbers["lost"] == 0


def test_versions_without_a_common_problem_are_not_compared():
    with pytest.raises(Fault, match="no answers to the same problems"):
        gated(answers(1, 1), [sample(7, PASSED)])


@pytest.mark.parametrize(("solved", "decision"), [(24, Decision.PASS), (23, Decision.FAIL)])
def test_first_version_is_held_against_the_minimum(solved: int, decision: Decision):
    judged = gated(answers(solved), None, replace(POLICY, min_score=0.5))
    assert judged.decision is decision
    assert judged.findings[0].name == ("benchmark_score" if decision is Decision.PASS else "benchmark_below_minimum")


def test_first_version_that_solves_nothing_passes_with_a_warning():
    judged = gated(answers(0), None)
    (finding,) = judged.findings
    assert (judged.decision, finding.name, finding.passed) == (Decision.PASS, UNSOLVED, True)
    assert "solves none of 48 problems" in finding.reason
    assert "SEATRIAL_TRIALS_MIN_SCORE" in finding.hint


def test_first_version_that_solves_nothing_is_refused_where_a_minimum_is_set():
    assert gated(answers(0), None, replace(POLICY, min_score=0.1)).findings[0].name == "benchmark_below_minimum"


def test_first_version_that_solves_one_problem_passes_without_a_warning():
    assert gated(answers(1), None).findings[0].name == "benchmark_score"


def test_gate_asks_a_model_with_a_chat_template_in_chat_form():
    plan = gate_plan(POLICY, Form.CHAT)
    assert (plan.form, plan.prompt, plan.extractor, plan.stops) == (Form.CHAT, "seatrial-chat@1", "chat-v2", ())
    assert plan.grid == (Sampling(max_tokens=160),)
    assert plan.key != PLAN.key


def test_plans_of_two_forms_ask_the_same_questions_and_their_answers_pair_by_problem():
    chat = gate_plan(POLICY, Form.CHAT)
    assert same_questions(chat, PLAN)
    assert not same_questions(chat, replace(PLAN, samples=2))
    theirs = [replace(one, sampling=PLAN.grid[0].key) for one in answers(3, 5)]
    assert {one.sampling for one in aligned(theirs, PLAN, chat)} == {chat.grid[0].key}
    assert aligned(theirs, PLAN, PLAN) == tuple(theirs)


def test_score_of_a_model_in_the_other_form_is_found_by_its_key_also_after_more_samples():
    policy = TrialPolicy(samples=3, temperature=0.8, max_samples=8)
    ours, theirs = gate_plan(policy, Form.CHAT), gate_plan(policy, Form.COMPLETION)
    for samples in (3, 6, 8):
        key = benchmark_key(replace(ours, samples=samples))
        assert key_in_form(key, policy, Form.CHAT, Form.COMPLETION) == benchmark_key(replace(theirs, samples=samples))
        assert key_in_form(key, policy, Form.CHAT, Form.CHAT) == key
    assert key_in_form("another key", policy, Form.CHAT, Form.COMPLETION) == "another key"


def test_gating_twice_gives_the_same():
    once = gated(answers(15), answers(45))
    assert gate_benchmark(once, answers(15), answers(45), POLICY) == once
