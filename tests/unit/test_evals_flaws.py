"""What is wrong with an answer besides failing, and the gates on loops and nonsense."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.benchmarks import Flaw, Sample
from core.ids import VersionId
from core.programs import RunOutcome
from core.versions import Decision, TrialKind, TrialReport
from evals.degeneration import LOW_LOGPROB, flaws, judge_loops, judge_nonsense
from tests.equipment.made_runs import answer

SOUND = "def double(x):\n    return 2 * x\n"


def flaws_of(code: str = SOUND, **changes: Any) -> tuple[Flaw, ...]:
    given: dict[str, Any] = {"entry_point": "double", "finish_reason": "stop", "completion_tokens": 20, "mean_logprob": -0.2}
    return flaws(**{"text": code, "code": code, **given, **changes})


def test_a_sound_answer_has_no_flaw():
    assert flaws_of() == ()


def test_a_loop_is_found_by_the_detector_of_live_conversations():
    looping = SOUND + "    x = 1\n" * 40
    assert flaws_of(looping, completion_tokens=240) == (Flaw.LOOP,)


@pytest.mark.parametrize("text", ["", " \n\t", "\n\n"])
def test_an_answer_without_a_visible_character_is_empty(text: str):
    assert Flaw.EMPTY in flaws_of(text=text)


def test_an_answer_that_its_length_ended_is_cut():
    assert flaws_of(finish_reason="length") == (Flaw.CUT,)


@pytest.mark.parametrize(
    "code",
    [
        "def double(x:\n",
        "Sure! Here is the code.",
        "def double(x):\n    return '\x00'\n",
        "(" * 100_000,
        "-" * 150_000 + "1",
        "x" + ".b" * 90_000,
        "lambda:" * 20_000 + "1",
        "double = 1\n" + "#" * 300_000,
        "return 1 +",
    ],
)
def test_what_is_no_python_or_breaks_the_parser_is_unparsable(code: str):
    assert flaws_of(code, text="x") == (Flaw.UNPARSABLE,)


@pytest.mark.parametrize("code", ["def other(x):\n    return x\n", "x.double = 1\n", "def f():\n    def double(): ...\n", "double: int\n"])
def test_a_program_that_does_not_bind_its_entry_point_is_told(code: str):
    assert flaws_of(code) == (Flaw.NO_ENTRY_POINT,)


@pytest.mark.parametrize(
    "code",
    [
        "async def double(x): ...",
        "class double: ...",
        "double = lambda x: 2 * x",
        "double: object = len",
        "from m import f as double",
        "try:\n    from m import double\nexcept ImportError:\n    double = None\n",
        "if True:\n    def double(x): ...\n",
    ],
)
def test_an_entry_point_may_be_bound_in_any_way(code: str):
    assert flaws_of(code) == ()


def test_the_program_is_the_prompt_and_the_answer_where_they_come_apart():
    assert flaws_of("    return 2 * x\n", prompt="def double(x):\n") == ()


def test_a_task_without_an_entry_point_asks_for_no_program():
    assert flaws_of("The answer is 42.", entry_point="") == ()


@pytest.mark.parametrize(("logprob", "low"), [(None, False), (LOW_LOGPROB, False), (LOW_LOGPROB - 0.01, True), (float("nan"), False)])
def test_an_improbable_answer_is_told_where_the_engine_gives_probabilities(logprob: float | None, low: bool):
    assert flaws_of(mean_logprob=logprob) == ((Flaw.LOW_LOGPROB,) if low else ())


def test_warnings_of_generated_code_are_not_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flaws_of(SOUND + "y = '\\d' is 1\n") == ()


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_judged_without_an_error(text: str, code: str):
    found = flaws_of(code, text=text)
    assert list(found) == [flaw for flaw in Flaw if flaw in found]


def run_with(loops: int, answers: int = 100) -> list[Sample]:
    return [answer(f"p{i}", flaws=(Flaw.LOOP,) if i < loops else ()) for i in range(answers)]


@pytest.mark.parametrize(
    ("candidate", "baseline", "decision"),
    [
        (40, 2, Decision.FAIL),
        (5, 2, Decision.PASS),
        (0, 30, Decision.PASS),
        (30, 30, Decision.PASS),
    ],
)
def test_a_candidate_may_not_loop_more_than_its_baseline_by_the_limit(candidate: int, baseline: int, decision: Decision):
    assert judge_loops(run_with(candidate), run_with(baseline), 0.05)[0] is decision


def test_the_sentence_tells_both_rates_and_the_limit():
    said = judge_loops(run_with(40), run_with(2), 0.05)[1]
    assert "40.0 % of 100 answers end in a loop against the baseline's 2.0 %" in said
    assert "more than the 5 points" in said


def test_one_loop_of_eight_answers_refuses_nobody():
    assert judge_loops(run_with(1, 8), run_with(0, 8), 0.05)[0] is Decision.INCONCLUSIVE


@pytest.mark.parametrize(("loops", "decision"), [(40, Decision.FAIL), (3, Decision.PASS)])
def test_without_a_baseline_the_limit_stands_alone(loops: int, decision: Decision):
    found, said = judge_loops(run_with(loops), [], 0.05)
    assert found is decision
    assert "baseline" not in said


def test_answers_to_other_problems_decide_nothing():
    others = [replace(one, task_id=f"q{i}") for i, one in enumerate(run_with(0))]
    assert judge_loops(run_with(50), others, 0.05)[0] is Decision.INCONCLUSIVE


def test_answers_that_the_sandbox_could_not_judge_decide_nothing():
    lost = [replace(one, outcome=RunOutcome.SANDBOX_FAULT) for one in run_with(50)]
    assert judge_loops(lost, [], 0.05)[0] is Decision.INCONCLUSIVE


def report_with(nonsense: int, answers: int = 48, flaw: Flaw = Flaw.NONSENSE, outcome: str = "failed") -> TrialReport:
    rows = [
        {"task_id": f"p{i}", "sampling": "t0", "index": 0, "outcome": outcome, "flaws": [flaw.value] if i < nonsense else ["cut"]}
        for i in range(answers)
    ]
    return TrialReport(VersionId("c" * 64), TrialKind.BENCHMARK, "k", Decision.PASS, (), {}, {"rows": rows})


@pytest.mark.parametrize(
    ("candidate", "stable", "passed"),
    [(48, 0, False), (48, None, False), (20, 2, False), (48, 48, True), (4, 0, True), (4, None, True), (0, None, True), (0, 48, True)],
)
def test_a_candidate_may_not_write_more_nonsense_than_the_stable_version_by_the_limit(candidate: int, stable: int | None, passed: bool):
    finding, numbers = judge_nonsense(report_with(candidate), None if stable is None else report_with(stable), 0.1)
    assert finding.passed is passed
    assert finding.name == ("no_nonsense" if passed else "nonsense_answers")
    assert numbers["nonsense_rate"] == pytest.approx(candidate / 48)


def test_an_answer_that_its_model_held_for_improbable_counts_as_nonsense_of_the_gate():
    assert not judge_nonsense(report_with(48, flaw=Flaw.LOW_LOGPROB), None, 0.1)[0].passed


def test_few_nonsense_answers_refuse_nobody_and_the_finding_says_so():
    finding = judge_nonsense(report_with(2, 6), report_with(0, 6), 0.1)[0]
    assert finding.passed
    assert "too few answers" in finding.reason


def test_a_report_without_judged_answers_passes_the_nonsense_gate():
    finding, numbers = judge_nonsense(report_with(48, outcome=RunOutcome.SANDBOX_FAULT), None, 0.1)
    assert (finding.passed, numbers) == (True, {})


def test_word_salad_is_a_flaw():
    salad = "threads alone revered collects statistics medical superzan twisting Bris Newfoundland conduction restaurants Cheng DATA evenly"
    assert Flaw.NONSENSE in flaws_of(text=salad, completion_tokens=40)
