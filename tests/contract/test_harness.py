"""lm-eval in its child process against an engine over HTTP: what is asked, kept, tried again, resumed and judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.benchmarks import Flaw, Form, Plan, Sample, Sampling
from core.errors import Fault, Refused, Transient
from core.ids import Digest, VersionId
from core.programs import Program, RunOutcome, RunResult
from core.settings import TrialPolicy
from evals.harness import process, results, run_plan, warm
from evals.harness.job import Patience
from evals.suite_loader import load_suite
from evals.suites.suite import Suite, plan_of
from tests.equipment.openai_server import Engine, Says, engine_that

VERSION = VersionId("b" * 64)
HASTY = Patience(attempts=3, first_pause_s=0.01, longest_pause_s=0.02)
WARM = Sampling(0.8, 0.5, 0.95, 64)


class Believes:
    """A sandbox that believes code which says so."""

    def __init__(self, faults: int = 0) -> None:
        self.faults = faults
        self.ran: list[Program] = []

    def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
        self.ran.extend(programs)
        return tuple(self._run(program) for program in programs)

    def _run(self, program: Program) -> RunResult:
        if "# right" not in program.code:
            return RunResult(program.id, RunOutcome.FAILED, "assert it == right", 0.1, 0.01, "none")
        self.faults -= 1
        outcome = RunOutcome.SANDBOX_FAULT if self.faults >= 0 else RunOutcome.PASSED
        return RunResult(program.id, outcome, "", 0.1, 0.01, "none")


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return written(tmp_path, 6)


def written(tmp_path: Path, problems: int) -> Suite:
    rows = [
        {
            "task_id": f"t/{n}",
            "prompt": f"def f{n}(x):\n",
            "entry_point": f"f{n}",
            "test": "def check(candidate):\n    assert candidate(1)\n",
        }
        for n in range(problems)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return load_suite(str(path))


def right(_path: str, _body: dict[str, Any]) -> Says:
    return Says("    return 1  # right")


def ran(engine: Engine, suite: Suite, plan: Plan, tmp_path: Path, **options: Any) -> tuple[Sample, ...]:
    sandbox = options.pop("sandbox", Believes())
    given = {"concurrency": 3, "patience": HASTY, **options}
    return run_plan(engine.address, VERSION, plan, suite, sandbox, tmp_path / "rows.jsonl", **given)


def prompts(engine: Engine) -> list[str]:
    return [body["prompt"] for _path, body in engine.asked]


def test_every_problem_is_asked_at_every_point_as_often_as_planned_with_a_seed_of_its_own(suite: Suite, tmp_path: Path):
    plan = plan_of(suite, samples=2, grid=(Sampling(max_tokens=64), WARM))
    told: list[tuple[float, str]] = []
    with engine_that(right) as engine:
        samples = ran(engine, suite, plan, tmp_path, progress=lambda part, text: told.append((part, text)))
    identities = {(sample.task_id, sample.sampling, sample.index) for sample in samples}
    assert len(samples) == len(identities) == len(engine.asked) == 6 * 2 * 2
    assert len({body["seed"] for _, body in engine.asked}) == 24
    assert {sample.seed for sample in samples} == {body["seed"] for _, body in engine.asked}
    for path, body in engine.asked:
        assert path == "/v1/completions"
        assert (body["model"], body["max_tokens"], body["stop"]) == (VERSION, 64, list(plan.stops))
        assert (body["temperature"], body["frequency_penalty"], body["top_p"]) in {(0.0, 0.0, 1.0), (0.8, 0.5, 0.95)}
    assert told[-1] == (1.0, "24 of 24 answers, 24 solved")


def test_a_sample_keeps_what_the_engine_and_the_sandbox_said(suite: Suite, tmp_path: Path):
    with engine_that(lambda _path, _body: Says("    return 1  # wrong", finish="length", logprob=-0.25)) as engine:
        sample = ran(engine, suite, plan_of(suite, samples=1), tmp_path)[0]
    assert (sample.task_id, sample.sampling, sample.index) == ("t/0", "t0-f0-p1-m512", 0)
    assert (sample.text, sample.code) == ("    return 1  # wrong", "def f0(x):\n    return 1  # wrong")
    assert (sample.finish_reason, sample.prompt_tokens, sample.mean_logprob) == ("length", 7, -0.25)
    assert (sample.outcome, sample.detail, sample.cpu_s, sample.isolation) == (RunOutcome.FAILED, "assert it == right", 0.01, "none")
    assert Flaw.CUT in sample.flaws
    assert sample.seconds > 0


def test_chat_form_sends_the_suites_message_and_cuts_the_program_out_of_the_answer(suite: Suite, tmp_path: Path):
    says = Says("Here:\n```python\ndef f0(x):\n    return 1  # right\n```\nBye.")
    with engine_that(lambda _path, _body: says) as engine:
        samples = ran(engine, suite, plan_of(suite, samples=1, form=Form.CHAT), tmp_path)
    assert samples[0].code == "def f0(x):\n    return 1  # right\n"
    assert (samples[0].passed, samples[0].mean_logprob) == (True, -0.5)
    assert {path for path, _ in engine.asked} == {"/v1/chat/completions"}
    said = {body["messages"][0]["content"] for _, body in engine.asked}
    assert all(len(body["messages"]) == 1 and body["messages"][0]["role"] == "user" for _, body in engine.asked)
    assert any("```python\ndef f0(x):\n" in one for one in said)


def test_lm_evals_results_document_is_kept_beside_the_rows(suite: Suite, tmp_path: Path):
    with engine_that(lambda _path, body: right("", body) if body["prompt"] != "def f1(x):\n" else Says("no")) as engine:
        ran(engine, suite, plan_of(suite, samples=1), tmp_path)
    document = results(tmp_path / "rows.jsonl")
    assert document["results"]["own-t0-f0-p1-m512"]["pass_at_1,judged"] == pytest.approx(5 / 6)
    assert document["config"]["version"] == VERSION
    assert "samples" not in document


def test_a_run_that_has_not_ended_has_no_results_document(tmp_path: Path):
    with pytest.raises(Fault, match="no results document"):
        results(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("trouble", [Says(status=503), Says(status=429, retry_after="0"), Says(status=500), Says("half", cut=True)])
def test_an_engine_that_stumbles_is_asked_again_with_the_same_seed(suite: Suite, tmp_path: Path, trouble: Says):
    troubles = iter([trouble] * 2)
    with engine_that(lambda path, body: next(troubles, None) or right(path, body)) as engine:
        samples = ran(engine, suite, plan_of(suite, samples=1), tmp_path)
    assert all(sample.passed for sample in samples)
    assert len(engine.asked) == 8
    assert len({(body["prompt"], body["seed"]) for _, body in engine.asked}) == 6


def test_one_answer_that_fails_for_good_counts_for_nobody_and_loses_no_other(suite: Suite, tmp_path: Path):
    def script(path: str, body: dict[str, Any]) -> Says:
        return Says("cuda says no", status=500) if body["prompt"] == "def f2(x):\n" else right(path, body)

    with engine_that(script) as engine:
        samples = ran(engine, suite, plan_of(suite, samples=1), tmp_path)
        assert [sample.outcome for sample in samples].count(RunOutcome.PASSED) == 5
        assert samples[2].outcome is RunOutcome.SANDBOX_FAULT
        assert "cuda says no" in samples[2].detail
        assert results(tmp_path / "rows.jsonl")["results"]["own-t0-f0-p1-m512"]["pass_at_1,judged"] == 1
        asked = len(engine.asked)
        ran(engine, suite, plan_of(suite, samples=1), tmp_path)  # only what failed is asked again
        assert set(prompts(engine)[asked:]) == {"def f2(x):\n"}


def test_too_many_failures_end_the_run_as_transient(suite: Suite, tmp_path: Path):
    with engine_that(lambda _path, _body: Says("gone", status=503)) as engine, pytest.raises(Transient, match="503: gone"):
        ran(engine, suite, plan_of(suite, samples=1), tmp_path)
    assert len(engine.asked) <= 3 * len(suite.problems)


def test_an_engine_of_another_version_is_a_fault(suite: Suite, tmp_path: Path):
    with engine_that(lambda _path, _body: Says("no such model", status=404)) as engine, pytest.raises(Fault, match="no such model"):
        ran(engine, suite, plan_of(suite, samples=1), tmp_path)


def test_a_prompt_that_the_engine_will_not_take_counts_against_the_model(suite: Suite, tmp_path: Path):
    with engine_that(lambda path, body: Says("too long", status=400) if "f2" in body["prompt"] else right(path, body)) as engine:
        samples = ran(engine, suite, plan_of(suite, samples=1), tmp_path)
    assert [sample.outcome for sample in samples].count(RunOutcome.PASSED) == 5
    assert (samples[2].outcome, "too long" in samples[2].detail) == (RunOutcome.FAILED, True)
    assert prompts(engine).count("def f2(x):\n") == 1


def test_an_engine_that_takes_no_question_at_all_is_no_score_of_zero(suite: Suite, tmp_path: Path):
    for _ in range(2):  # also when the rows of the first attempt lie there
        with (
            engine_that(lambda _path, _body: Says("no such field", status=422)) as engine,
            pytest.raises(Refused, match="took none of 6 questions"),
        ):
            ran(engine, suite, plan_of(suite, samples=1), tmp_path)


def test_more_stop_strings_than_an_engine_takes_cut_all_the_same(tmp_path: Path):
    stops = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
    suite = written(tmp_path, 6)
    plan = replace(plan_of(suite, samples=1), stops=stops)
    with engine_that(lambda path, body: Says(right(path, body).text + "\nprint('never judged')")) as engine:
        samples = ran(engine, suite, plan, tmp_path)
    assert all(sample.passed and "never judged" not in sample.text for sample in samples)
    assert {tuple(body["stop"]) for _path, body in engine.asked} == {stops[:4]}


def test_a_fault_of_the_sandbox_is_tried_again_and_then_ends_the_run(suite: Suite, tmp_path: Path):
    plan = plan_of(suite, samples=1)
    with engine_that(right) as engine:
        assert all(sample.passed for sample in ran(engine, suite, plan, tmp_path, sandbox=Believes(faults=1)))
        with pytest.raises(Fault, match="the sandbox cannot judge"):
            ran(engine, suite, plan, tmp_path, sandbox=Believes(faults=100))
    assert len(engine.asked) == 6  # the answers were kept


def test_a_sandbox_with_a_fault_of_its_own_is_not_taken_for_answers_that_are_missing(suite: Suite, tmp_path: Path):
    class Broken:
        def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
            raise TypeError("a fault in our own code")

    with engine_that(right) as engine, pytest.raises(TypeError, match="our own code"):
        ran(engine, suite, plan_of(suite, samples=1), tmp_path, sandbox=Broken())


def test_a_run_that_is_killed_half_way_resumes_and_repeats_no_more_than_what_was_in_flight(tmp_path: Path):
    suite = written(tmp_path, 50)
    plan = plan_of(suite, samples=10, grid=(WARM,))
    warm()
    child = process.take()
    process.give(child)

    def script(path: str, body: dict[str, Any]) -> Says:
        if len(engine.asked) == 250:
            os.kill(child.pid, signal.SIGKILL)
        return right(path, body)

    with engine_that(script) as engine:
        with pytest.raises(Fault, match="child process ended with -9"):
            ran(engine, suite, plan, tmp_path, concurrency=2)
        samples = ran(engine, suite, plan, tmp_path, concurrency=2)
    assert len(samples) == 500
    assert len(engine.asked) - 500 <= 5  # 1 %
    assert len({sample.seed for sample in samples}) == 500


def test_more_samples_of_the_same_plan_keep_the_answers_that_are_there(suite: Suite, tmp_path: Path):
    with engine_that(right) as engine:
        few = ran(engine, suite, plan_of(suite, samples=1, grid=(WARM,)), tmp_path)
        many = ran(engine, suite, plan_of(suite, samples=3, grid=(WARM,)), tmp_path)
    assert len(engine.asked) == 18
    assert {sample.seed for sample in few} <= {sample.seed for sample in many}


@pytest.mark.parametrize("torn", [b'{"task_id": "t/5", "samp', b"\0\0\0\n", b'{"unknown": 1}\n'])
def test_a_torn_last_line_is_asked_again(suite: Suite, tmp_path: Path, torn: bytes):
    plan = plan_of(suite, samples=1)
    rows = tmp_path / "rows.jsonl"
    with engine_that(right) as engine:
        ran(engine, suite, plan, tmp_path)
        rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:-1]) + torn)
        assert len(ran(engine, suite, plan, tmp_path)) == 6
    assert len(engine.asked) == 7


def test_the_rows_of_another_run_are_not_gone_on_with(suite: Suite, tmp_path: Path):
    with engine_that(right) as engine:
        ran(engine, suite, plan_of(suite, samples=1), tmp_path)
        with pytest.raises(Fault, match="another run"):
            ran(engine, suite, plan_of(suite, samples=1, seed=1), tmp_path)


def test_a_plan_of_another_suite_is_not_run(suite: Suite, tmp_path: Path):
    with engine_that(right) as engine, pytest.raises(Fault, match="another own"):
        ran(engine, replace(suite, digest=Digest(VERSION)), plan_of(suite, samples=1), tmp_path)
    assert not engine.asked


def test_work_stops_when_the_progress_says_so(suite: Suite, tmp_path: Path):
    def stop(_part: float, _text: str) -> None:
        raise Refused("cancelled")

    with engine_that(right) as engine, pytest.raises(Refused, match="cancelled"):
        ran(engine, suite, plan_of(suite, samples=1), tmp_path, progress=stop)


def test_the_child_knows_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEATRIAL_HUB_TOKEN", "x")
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert not {"SEATRIAL_HUB_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & process._environ(network=True).keys()


TASK = """task: own_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}="
doc_to_target: "{{{{answer}}}}"
{more}
metadata: {{version: 1.0}}
"""
GENERATES = (
    'generation_kwargs: {until: ["\\n"], max_gen_toks: 8}\nmetric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]'
)


@pytest.fixture
def own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def write(kind: str, more: str) -> Path:
        folder = tmp_path / "tasks"
        folder.mkdir()
        data = tmp_path / "sums.jsonl"
        data.write_text('{"question": "1+1", "answer": "2"}\n{"question": "2+2", "answer": "4"}\n', encoding="utf-8")
        (folder / "own_sums.yaml").write_text(TASK.format(file=data, kind=kind, more=more), encoding="utf-8")
        return folder

    return write


def test_a_task_of_lm_evals_is_asked_and_scored_by_lm_eval(own_task: Callable[[str, str], Path], tmp_path: Path):
    folder = own_task("generate_until", GENERATES)
    suite = load_suite("lmeval:own_sums", TrialPolicy(lmeval_tasks=str(folder)))
    assert [problem.prompt for problem in suite.problems] == ["1+1=", "2+2="]
    assert suite.forms == (Form.COMPLETION, Form.CHAT)
    plan = plan_of(suite, samples=2, grid=(WARM,))
    with engine_that(lambda _path, _body: Says("2")) as engine:
        samples = ran(engine, suite, plan, tmp_path, lmeval_tasks=str(folder))
    assert [(sample.task_id, sample.passed) for sample in samples] == [(f"own_sums/{n}", n == 0) for n in (0, 0, 1, 1)]
    assert len({body["seed"] for _, body in engine.asked}) == len(engine.asked) == 4
    assert {body["temperature"] for _, body in engine.asked} == {0.8}


def test_a_task_that_lm_eval_does_not_have_is_refused():
    with pytest.raises(Refused, match="has no task 'nonesuch_at_all'"):
        load_suite("lmeval:nonesuch_at_all")


def test_a_child_that_cannot_begin_ends_with_the_cause_as_its_last_word() -> None:
    code = "import runpy, sys; sys.modules['lm_eval.evaluator'] = None; runpy.run_module('evals.harness.child', run_name='__main__')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.wait(60) == 1, "its input was open: the thread that listens to it kept nobody"
        assert child.stderr is not None
        assert child.stderr.read().splitlines()[-1].startswith(b"ModuleNotFoundError")
