"""Smoke, latency and degeneration: what each lets through and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import Transient
from core.ids import VersionId
from core.ports.clock import VirtualClock
from core.settings import TrialPolicy
from core.versions import Decision, TrialKind, TrialReport
from evals.degeneration import Means
from evals.engine_client import EngineClient
from evals.trials import degeneration, latency, smoke
from tests.equipment.openai_server import Says, Script, engine_that

VERSION = VersionId("b" * 64)
POLICY = TrialPolicy()


def tried(script: Script) -> TrialReport:
    with engine_that(script) as engine, EngineClient(engine.address, VERSION) as client:
        return smoke(client, VERSION)


def only(kind: str, says: Says) -> Script:
    return lambda path, _body: says if ("chat" in path) == (kind == "chat") else Says("fine words")


def test_smoke_passes_when_both_ways_answer() -> None:
    report = tried(lambda _path, _body: Says("good day"))
    assert (report.kind, report.decision, report.version) == (TrialKind.SMOKE, Decision.PASS, VERSION)
    assert [finding.name for finding in report.findings] == ["chat_answers", "completion_answers", "default_chat_answers"]


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("says", [Says(""), Says(" \n"), Says("\ufffd\ufffd"), Says("no template", status=400)])
def test_smoke_fails_when_one_way_gives_no_text(kind: str, says: Says) -> None:
    report = tried(only(kind, says))
    assert report.decision is Decision.FAIL
    failure = report.first_failure()
    assert failure is not None
    assert failure.name == f"no_{kind}"
    assert failure.reason
    assert failure.hint


def test_smoke_of_an_engine_that_is_away_is_no_verdict() -> None:
    with pytest.raises(Transient):
        tried(lambda _path, _body: Says(status=503))


@pytest.mark.parametrize("limit", [1, 4, 63])
def test_smoke_fails_when_a_chat_without_max_tokens_is_cut_short(limit: int) -> None:
    report = tried(lambda _path, _body: Says("word " * 200, default_limit=limit))
    failure = report.first_failure()
    assert failure is not None
    assert failure.name == "default_answers_cut"
    assert failure.reason == f"a chat without max_tokens is cut after {limit} tokens; at least 64 are required"
    assert "max_new_tokens in generation_config.json" in failure.hint


def test_smoke_asks_again_when_a_short_answer_hides_the_cut() -> None:
    def script(_path: str, body: dict[str, Any]) -> Says:
        return Says("Aye." if "story" in str(body.get("messages")) else "word " * 200, default_limit=4)

    failure = tried(script).first_failure()
    assert failure is not None
    assert failure.name == "default_answers_cut"


@pytest.mark.parametrize("says", [Says("word " * 5000), Says("word " * 100, default_limit=64), Says("A short answer."), Says("Aye.")])
def test_smoke_passes_when_a_chat_without_max_tokens_ends_by_itself_or_is_long_enough(says: Says) -> None:
    assert tried(lambda _path, _body: says).decision is Decision.PASS


def test_smoke_sets_neither_length_nor_sampling_in_the_chat_by_defaults() -> None:
    with engine_that(lambda _path, _body: Says("word " * 80)) as engine, EngineClient(engine.address, VERSION) as client:
        smoke(client, VERSION)
    _path, body = engine.asked[-1]
    assert set(body) == {"model", "messages", "stream", "stream_options"}


def test_smoke_fails_when_the_engine_refuses_the_models_own_defaults() -> None:
    def script(path: str, body: dict[str, Any]) -> Says:
        default = "chat" in path and "max_tokens" not in body
        return Says("top_p must be in (0, 1], got 0.0.", status=400) if default else Says("fine words")

    failure = tried(script).first_failure()
    assert failure is not None
    assert failure.name == "no_default_chat"
    assert "top_p must be in (0, 1]" in failure.reason


def test_smoke_passes_a_template_that_requires_a_system_message() -> None:
    def script(path: str, body: dict[str, Any]) -> Says:
        alone = "chat" in path and body["messages"][0]["role"] != "system"
        return Says("a system message is required", status=400) if alone else Says("fine words")

    assert tried(script).decision is Decision.PASS


class SlowClock(VirtualClock):
    """Every look at it takes `step` seconds: a request's first token comes one look after its start."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self._step = step

    def monotonic(self) -> float:
        self.wait(self._step)
        return super().monotonic()


@pytest.mark.parametrize(("step", "decision"), [(4.9, Decision.PASS), (5.1, Decision.FAIL)])
def test_latency_is_the_median_time_to_first_token_held_against_the_limit(step: float, decision: Decision) -> None:
    with (
        engine_that(lambda _path, _body: Says("a b c d e")) as engine,
        EngineClient(engine.address, VERSION, SlowClock(step)) as client,
    ):
        report = latency(client, VERSION, POLICY)
    assert report.decision is decision
    assert report.numbers["ttft_s"] == pytest.approx(step)
    assert report.numbers["tokens_per_s"] == pytest.approx(5 / (2 * step))
    assert report.numbers["requests"] == len(engine.asked) - 1 == 5, "one request warms the engine up"
    assert report.findings[0].name == ("first_token" if decision is Decision.PASS else "slow_first_token")


def benchmarked(looped: int, answers: int = 48, first: int = 0) -> TrialReport:
    """Return a report of so many answers, of which those from `first` on loop."""
    loops = range(first, first + looped)
    rows = [
        {
            "task_id": f"t/{place}", "sampling": "t0", "index": 0, "finish_reason": "length", "completion_tokens": 200, "seconds": 0.1,
            "outcome": "failed", "flaws": ["loop"] if place in loops else [],
        }
        for place in range(answers)
    ]  # fmt: skip
    numbers = {"loop_rate": looped / answers, "problems": float(answers), "pass_at_1": 0.5}
    return TrialReport(VERSION, TrialKind.BENCHMARK, "s:1:greedy-v1", Decision.PASS, (), numbers, {"rows": rows})


@pytest.mark.parametrize(
    ("ours", "stable", "name"),
    [
        (0, None, "no_degeneration"),
        (2, None, "no_degeneration"),
        (3, None, "loops_inconclusive"),
        (7, None, "degenerate_answers"),
        (5, 5, "no_degeneration"),
        (2, 0, "no_degeneration"),
        (12, 8, "loops_inconclusive"),
        (12, 1, "degenerate_answers"),
        (48, 48, "no_degeneration"),
    ],
)
def test_loops_may_be_as_many_as_the_stable_versions_and_as_chance_makes(ours: int, stable: int | None, name: str) -> None:
    known = None if stable is None else benchmarked(stable, first=48 - stable)
    report = degeneration(benchmarked(ours), known, POLICY)
    assert report.findings[0].name == name
    assert report.decision is (Decision.FAIL if name == "degenerate_answers" else Decision.PASS)
    assert (report.kind, report.key) == (TrialKind.DEGENERATION, "s:1:greedy-v1")


def test_degeneration_says_how_many_answers_loop() -> None:
    failure = degeneration(benchmarked(12), None, POLICY).first_failure()
    assert failure is not None
    assert failure.reason == "12 of 48 benchmark answers end in a loop (14.9 to 38.8 %); more than the 5 % that are allowed"
    assert failure.hint


def test_loops_that_may_be_chance_pass_with_what_would_settle_it() -> None:
    finding = degeneration(benchmarked(3), None, POLICY).findings[0]
    assert finding.reason.startswith("inconclusive: 3 of 48 benchmark answers end in a loop (")
    assert finding.hint


def test_answers_that_could_not_be_judged_are_no_loops_and_no_answers() -> None:
    report = benchmarked(20)
    for row in report.detail["rows"][:20]:
        row["outcome"] = "sandbox_fault"
    assert degeneration(report, None, POLICY).findings[0].reason.startswith("0 of 28 benchmark answers end in a loop")


def test_the_stable_version_is_not_asked_about_a_candidate_that_loops() -> None:
    asked = []

    def ask() -> Means:
        asked.append(1)
        return Means()

    assert len(degeneration(benchmarked(12), benchmarked(0), POLICY, ask_stable=ask).findings) == 2
    assert asked == []


def test_answers_that_are_improbable_to_the_stable_version_fail_with_its_numbers() -> None:
    keys = [(f"t/{place}", "t0", 0) for place in range(48)]
    means = Means(-2.0, dict.fromkeys(keys, -8.0), dict.fromkeys(keys, -0.5))
    report = degeneration(benchmarked(0), benchmarked(0), POLICY, ask_stable=lambda: means)
    assert (report.decision, report.findings[-1].name) == (Decision.FAIL, "nonsense_answers")
    assert (report.numbers["improbable_rate"], report.numbers["loop_rate"]) == (1.0, 0.0)
