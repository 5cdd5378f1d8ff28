"""The Markdown that a submission leaves on Prefect's page."""

from __future__ import annotations

from dataclasses import replace

from core.endpoints import Cohort, Endpoint, RolloutState, Verdict
from core.ids import EndpointName, VersionId
from core.links import Links
from core.submissions import Step, StepName, StepState, Submission, SubmissionRequest, SubmissionState
from core.versions import Decision, Finding, ModelRef, TrialKind, TrialReport
from tasks.pages import Outcome, endpoint_page, model_page, newest_of_each, rollout_page, table, text
from tests.equipment.samples import NOW, a_rollout, a_version

LINKS = Links("http://prefect", "http://mlflow", "http://gateway")
CHAT = EndpointName("chat")


def a_submission(source: str = "demo/steady", **fields: object) -> Submission:
    request = SubmissionRequest(ModelRef(source), CHAT)
    row = Submission("sub-1", request, "pr-1", SubmissionState.SERVING, NOW, NOW)  # type: ignore[arg-type]
    return replace(row, **fields)  # type: ignore[arg-type]


def a_report(kind: TrialKind, at: float, **fields: object) -> TrialReport:
    report = TrialReport(VersionId("c" * 64), kind, "k", Decision.PASS, (), {"pass_at_1": 0.5, "loop_rate": 6.9e-18}, at=at)
    return replace(report, **fields)  # type: ignore[arg-type]


def test_the_page_of_a_model_shows_each_step_with_its_time_and_the_links() -> None:
    steps = (Step(StepName.ROLL_OUT, StepState.DONE, 1, NOW, NOW + 62, message="promoted, share 100%"),)
    version = replace(a_version(), registered_uri="models:/chat/3")
    page = model_page(Outcome(a_submission(steps=steps), version, (a_report(TrialKind.BENCHMARK, NOW),), LINKS, "run-1"))
    assert "# demo/steady -> chat" in page
    assert "| roll out | done | 1 min 2 s | promoted, share 100% |" in page
    assert "| benchmark | pass | pass@1 50.0 %, loops 0.0 % |" in page
    assert "(http://prefect/runs/flow-run/run-1)" in page
    assert "(http://mlflow/#/models/chat/versions/3)" in page
    assert "`seatrial status sub-1`" in page


def test_the_page_of_a_refused_model_gives_the_reason_and_the_next_step() -> None:
    failed = a_report(TrialKind.SMOKE, NOW, decision=Decision.FAIL, findings=(Finding("no_chat", False, "the chat answer is empty"),))
    row = a_submission(state=SubmissionState.REFUSED, message="the chat answer is empty", hint="try the model in transformers")
    page = model_page(Outcome(row, None, (failed,), LINKS, None))
    assert "**refused**: the chat answer is empty" in page
    assert "Next: try the model in transformers" in page
    assert "| smoke | fail | the chat answer is empty |" in page


def test_the_page_of_a_folder_does_not_show_its_path() -> None:
    page = model_page(Outcome(a_submission("/home/ann/steady"), None, (), LINKS, None))
    assert "/home/ann" not in page


def test_the_page_of_an_endpoint_shows_what_it_serves_and_how_to_call_it() -> None:
    version = replace(a_version(), source="demo/steady", registered_uri="models:/chat/3")
    page = endpoint_page(Endpoint(CHAT, NOW, stable=version.id), version, None, a_submission(), LINKS)
    assert "demo/steady@" in page
    assert 'seatrial chat chat "hello"' in page
    assert "base URL `http://gateway/v1`" in page
    assert "| previous version | none |" in page


def test_the_page_of_a_rollout_shows_both_cohorts_with_rounded_numbers() -> None:
    verdict = Verdict(Decision.PASS, "no worse", Cohort(12, ttft_p95_s=0.04231), Cohort(13, ttft_p95_s=1.23456), e_value=0.123456)
    page = rollout_page(a_rollout(state=RolloutState.PROMOTED, verdict=verdict, ended_at=NOW + 90), "demo/steady")
    assert "e-value 0.123." in page
    assert "| stable | 12 | 0 | 0 | 0 | 0 | 0 | 0 | +0 -0 | 42 ms |" in page
    assert "| 1.2 s |" in page


def test_only_the_newest_report_of_each_trial_is_shown() -> None:
    reports = [a_report(TrialKind.BENCHMARK, NOW + 9), a_report(TrialKind.SMOKE, NOW + 1), a_report(TrialKind.BENCHMARK, NOW)]
    assert [(report.kind, report.at) for report in newest_of_each(reports)] == [(TrialKind.SMOKE, NOW + 1), (TrialKind.BENCHMARK, NOW + 9)]


def test_words_of_a_model_cannot_break_the_page() -> None:
    assert text("a | b\n<img src=x> [x](y)") == "a \\| b &lt;img src=x> \\[x](y)"
    assert text("chat at http://127.0.0.1:8800/v1 with model 'a_b'") == "chat at `http://127.0.0.1:8800/v1` with model 'a\\_b'"
    assert table(("a",), [("x|y",)])[-1] == "| x\\|y |"
