"""The fidelity trial: which engines pass, which fail, and when there is nothing to compare with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Transient
from core.fidelity import Likely, Reference, ReferencePrompt
from core.versions import Decision, ModelVersion, TrialKind, TrialReport
from evals.engine_client import EngineClient
from evals.fidelity import fidelity, kl
from tests.equipment.openai_server import Says, engine_that
from tests.equipment.samples import a_version

CERTAIN = (Likely(7, math.log(0.9)), Likely(8, math.log(0.05)))
REFERENCE = Reference("a test", (ReferencePrompt(tokens=(1, 2, 3), answer=(7, 7), top=(CERTAIN,) * 4),))
RIGHT = {7: math.log(0.9), 8: math.log(0.05), 9: math.log(0.01)}
WRONG = {9: math.log(0.9), 7: math.log(0.05), 8: math.log(0.01)}


def version(dtype: str = "bfloat16", *, quantized: bool = False) -> ModelVersion:
    made = a_version()
    return replace(made, needs=replace(made.needs, dtype=dtype, quantized=quantized))


def completion(prompt: Sequence[dict[int, float] | None], tokens: list[int], generated: list[dict[int, float]]) -> bytes:
    """Return what vLLM 0.32 answers to a completion with the probabilities of prompt and answer."""
    choice = {
        "text": "",
        "finish_reason": "length",
        "prompt_logprobs": [None if at is None else told(at) for at in prompt],
        "logprobs": {"top_logprobs": [{f"token_id:{token}": value for token, value in at.items()} for at in generated]},
        "token_ids": tokens,
    }
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}}).encode()


def told(at: dict[int, float]) -> dict[str, dict[str, Any]]:
    return {str(token): {"logprob": value, "rank": 1, "decoded_token": "x"} for token, value in at.items()}


def tried(answer: bytes, reference: Reference | None = REFERENCE, of: ModelVersion | None = None, context: int = 100) -> TrialReport:
    tested = of or version()

    def script(path: str, _body: dict[str, Any]) -> Says:
        return Says(raw=json.dumps({"data": [{"id": tested.id, "max_model_len": context}]}).encode() if path == "/v1/models" else answer)

    with engine_that(script) as engine, EngineClient(engine.address, tested.id) as client:
        return fidelity(client, tested, reference)


def test_an_engine_with_the_probabilities_of_the_reference_passes() -> None:
    report = tried(completion([None, RIGHT, RIGHT], [7, 7], [RIGHT, RIGHT]))
    assert (report.kind, report.decision) == (TrialKind.FIDELITY, Decision.PASS)
    assert max(report.numbers["prefill_divergence"], report.numbers["decode_divergence"]) < 1e-6
    assert report.numbers["positions"] == 4


@pytest.mark.parametrize(
    "answer",
    [completion([None, RIGHT, WRONG], [7, 7], [RIGHT, RIGHT]), completion([None, RIGHT, RIGHT], [9, 9], [WRONG, WRONG])],
    ids=["prefill", "decode"],
)
def test_an_engine_that_computes_another_distribution_fails(answer: bytes) -> None:
    report = tried(answer)
    failure = report.first_failure()
    assert failure is not None
    assert failure.name == "engine_differs"
    assert "nats a token" in failure.reason
    assert failure.hint


def test_after_the_first_token_that_differs_nothing_is_compared() -> None:
    close = {7: math.log(0.89), 8: math.log(0.055), 9: math.log(0.01)}
    report = tried(completion([None, RIGHT, RIGHT], [8, 9], [close, WRONG]))
    assert report.decision is Decision.PASS


def test_a_quantised_model_has_a_wider_limit_and_float32_a_narrower_one() -> None:
    near = {7: math.log(0.87), 8: math.log(0.08), 9: math.log(0.01)}
    answer = completion([None, near, near], [7, 7], [near, near])
    decisions = [tried(answer, of=of).decision for of in (version("float32"), version("float16"), version(), version(quantized=True))]
    assert decisions == [Decision.FAIL, Decision.FAIL, Decision.PASS, Decision.PASS]


@pytest.mark.parametrize(
    ("reference", "context", "why"),
    [
        (None, 100, "by a release without this trial"),
        (Reference("", unavailable="its weights take 140.0 GB in float32"), 100, "140.0 GB"),
        (REFERENCE, 4, "no prompt of the reference fits into 4 tokens"),
    ],
)
def test_without_a_reference_the_trial_is_reported_as_skipped(reference: Reference | None, context: int, why: str) -> None:
    report = tried(b"", reference, context=context)
    assert report.decision is Decision.PASS
    (finding,) = report.findings
    assert finding.name == "fidelity_skipped"
    assert why in finding.reason


def test_an_engine_that_refuses_to_state_probabilities_is_not_compared() -> None:
    def script(path: str, _body: dict[str, Any]) -> Says:
        known = json.dumps({"data": [{"max_model_len": 100}]}).encode()
        return Says(raw=known) if path == "/v1/models" else Says("prompt_logprobs is not supported", status=400)

    with engine_that(script) as engine, EngineClient(engine.address, version().id) as client:
        report = fidelity(client, version(), REFERENCE)
    assert report.decision is Decision.PASS
    assert "prompt_logprobs is not supported" in report.findings[0].reason


@pytest.mark.parametrize(
    "answer", [b"[]", b'{"choices": [{}]}', completion([None, RIGHT, RIGHT], [7, 7], [RIGHT, RIGHT]).replace(b"7", b"null")]
)
def test_an_answer_without_probabilities_is_no_verdict(answer: bytes) -> None:
    with pytest.raises(Transient):
        tried(answer)


@given(
    st.lists(st.floats(min_value=1e-6, max_value=1.0), min_size=3, max_size=12),
    st.lists(st.floats(min_value=1e-6, max_value=1.0), min_size=12, max_size=12),
)
def test_the_divergence_is_at_most_that_of_the_whole_distributions(ours: list[float], theirs: list[float]) -> None:
    p = [value / sum(ours) for value in ours]
    q = [value / sum(theirs[: len(p)]) for value in theirs[: len(p)]]
    listed = sorted(range(len(p)), key=lambda token: -p[token])[:2]
    reference = [Likely(token, math.log(p[token])) for token in listed]
    whole = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    measured = kl(reference, {token: math.log(q[token]) for token in range(len(q))})
    assert 0.0 <= measured <= whole + 1e-9
