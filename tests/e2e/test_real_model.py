"""A real language model through the whole chain: submitted, served by real vLLM, asked through the gateway.

SmolLM2 has a chat template, so the gate asks `harbour` in chat form.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from core.ids import VersionId
from tests.e2e.harness import Stack
from tests.equipment.real_model import smollm2

pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.release]
LIMIT_S = 600.0
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def folder() -> Path:
    return smollm2()


@pytest.fixture(scope="module")
def serving(folder: Path, stack: Stack) -> Stack:
    """The stack after the model came from the hub."""
    (stack.models / "org" / "smollm2").symlink_to(folder)
    ended = stack.finish(stack.submit("org/smollm2", "assistant").id, LIMIT_S)
    assert ended.state == "serving", (ended.reason, ended.message)
    return stack


def openai(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.settings_url('gateway')}/v1", api_key=stack.secret, max_retries=1, timeout=120)


def test_at_temperature_0_it_names_the_capital_of_france(serving: Stack):
    assert asked(serving, "assistant") == "The capital of France is Paris."


def test_streamed_it_gives_the_same_answer(serving: Stack):
    pieces = openai(serving).chat.completions.create(model="assistant", messages=CAPITAL, max_tokens=32, temperature=0, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "The capital of France is Paris."


def test_it_writes_a_function_that_works(serving: Stack):
    ask: list[Any] = [{"role": "user", "content": "Write a Python function add(a, b) that returns the sum of two numbers."}]
    answer = openai(serving).chat.completions.create(model="assistant", messages=ask, max_tokens=64, temperature=0)
    code = (answer.choices[0].message.content or "").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # greedy, of a model with a pinned digest
    assert names["add"](2, 3) == 5


def test_its_trials_report_what_it_scored(serving: Stack):
    reports = {report.kind: report.numbers for report in serving.platform.records.versions.reports(version_of(serving, "assistant"))}
    assert {"smoke", "latency", "benchmark", "degeneration"} <= set(map(str, reports))


def test_a_folder_whose_config_asks_for_float32_is_served_in_float32_and_answers_the_same(serving: Stack, folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "smollm2")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    ended = serving.finish(serving.submit(str(copy), "precise").id, LIMIT_S)
    assert ended.state == "serving", (ended.reason, ended.message)
    assert serving.platform.records.versions.get(version_of(serving, "precise")).needs.dtype == "float32"
    assert asked(serving, "precise") == "The capital of France is Paris."


def asked(stack: Stack, endpoint: str) -> str:
    answer = openai(stack).chat.completions.create(model=endpoint, messages=CAPITAL, max_tokens=32, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    return (answer.choices[0].message.content or "").strip()


def version_of(stack: Stack, endpoint: str) -> VersionId:
    found = [one.stable for one in stack.platform.records.endpoints.list() if one.name == endpoint]
    assert found
    assert found[0] is not None
    return found[0]
