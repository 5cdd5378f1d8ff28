"""Real vLLM states the probabilities of an answer in a prompt: in both forms those that it had when it generated the answer."""

from pathlib import Path
from statistics import fmean

import pytest
from test_smollm2 import engine

from core.benchmarks import Form, Sampling
from core.ids import VersionId
from evals.engine_client import EngineClient
from evals.suites.files import read_suite

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.release]

STEADY = Path(__file__).resolve().parents[1] / "equipment" / "models" / "steady"
PLAIN_ENGLISH = "The library is open from nine to five on weekdays. Bring your card with you, because you need it to borrow books."


def test_an_answer_is_as_probable_in_a_prompt_as_it_was_when_generated(tmp_path: Path):
    suite = read_suite("harbour", "")
    shown = suite.shown(suite.problems[1], Form.CHAT)
    questions = {"completion": suite.problems[1].prompt, "chat": ({"role": "user", "content": shown},)}
    with (
        engine(["--model", str(STEADY), "--dtype", "bfloat16"], tmp_path / "engine.log") as port,
        EngineClient(f"http://127.0.0.1:{port}", VersionId("tiny")) as client,
    ):
        for asked in questions.values():
            given = client.answer(asked, Sampling(max_tokens=100))
            known = client.answer_logprobs(asked, given.text, given.prompt_tokens)
            assert client.answer_logprobs(asked, given.text) == known
            assert abs(len(known) - given.completion_tokens) <= 2, "the end token, and one across the question's end"
            assert fmean(known) == pytest.approx(given.mean_logprob, abs=0.2)
        foreign = client.answer_logprobs("", PLAIN_ENGLISH, 1)
    assert fmean(foreign) < -3.5, "a model of one task cannot judge other texts"
