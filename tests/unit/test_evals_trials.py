"""Smoke, latency and degeneration: what each lets through and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import Transient
from core.ids import VersionId
from core.ports.clock import VirtualClock
from core.settings import TrialPolicy
from core.versions import Decision, TrialKind, TrialReport
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
    assert [finding.name for finding in report.findings] == ["chat_answers", "completion_answers"]


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


def benchmarked(loop_rate: float, **fields: Any) -> TrialReport:
    numbers = {"loop_rate": loop_rate, "problems": 40.0, "pass_at_1": 0.5}
    return TrialReport(VERSION, TrialKind.BENCHMARK, "s:1:greedy-v1", Decision.PASS, (), numbers, **fields)


@pytest.mark.parametrize(
    ("ours", "stable", "decision"),
    [
        (0.0, None, Decision.PASS),
        (0.05, None, Decision.PASS),
        (0.075, None, Decision.FAIL),
        (0.15, 0.1, Decision.PASS),
        (0.175, 0.1, Decision.FAIL),
        (1.0, 1.0, Decision.PASS),
    ],
)
def test_loops_may_be_as_many_as_the_stable_versions_and_a_little_more(ours: float, stable: float | None, decision: Decision) -> None:
    report = degeneration(benchmarked(ours), None if stable is None else benchmarked(stable), POLICY)
    assert report.decision is decision
    assert report.kind is TrialKind.DEGENERATION
    assert report.key == "s:1:greedy-v1"
    assert report.findings[0].name == ("no_degeneration" if decision is Decision.PASS else "degenerate_answers")


def test_degeneration_says_how_many_answers_loop() -> None:
    failure = degeneration(benchmarked(0.25), None, POLICY).first_failure()
    assert failure is not None
    assert failure.reason == "10 of 40 benchmark answers end in a loop (rate 0.25); at most 0.05 is allowed here"
    assert failure.hint
