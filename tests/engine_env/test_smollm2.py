"""A real language model through our loader on real vLLM: the same greedy tokens as transformers."""

import hashlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from equipment import wait_until
from seatrial_engine.manifest import MANIFEST_NAME
from seatrial_engine.tensorize import tensorize
from test_vllm import OPTIONS, SMALL_CACHE, environment, free_port, healthy, ours
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

ROOT = Path(__file__).resolve().parents[2]
NOT_AVAILABLE = 6
TOKENS = 16
START_S = 300
QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "In one sentence, why is the sky blue?",
    "Name three fruits.",
    "Translate 'good morning' into Spanish.",
    "How many days are there in a week?",
    "What is 12 plus 7?",
    "Who wrote Romeo and Juliet?",
    "What is the chemical symbol of water?",
    "Give me a synonym of 'quick'.",
    "What is the largest planet of the solar system?",
    "Write a haiku about the sea.",
    "What is the opposite of 'cold'?",
    "Explain what a database is.",
    "List the first five prime numbers.",
    "Which language is spoken in Brazil?",
    "How do I reverse a list in Python?",
    "What is a harbour?",
    "Finish the sentence: The early bird catches",
    "Tell me a short joke.",
)


@pytest.fixture(scope="module")
def model() -> Path:
    """SmolLM2's folder, built by the platform's environment or taken from its cache."""
    command = [ROOT / ".venv/bin/python", "-m", "infra.models.smollm2"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if built.returncode == NOT_AVAILABLE:
        pytest.skip(f"NOT TESTED WITH A REAL MODEL: {built.stderr.strip()}")
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


@pytest.fixture(scope="module")
def loading(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments with which an engine loads its tensorized weights."""
    bare, weights = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("weights")
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    tensorize(model, weights)
    return ours(bare, weights, hashlib.sha256((weights / MANIFEST_NAME).read_bytes()).hexdigest())


def prompts(model: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


def by_transformers(model: Path, asked: list[list[int]], found: list[list[int]]) -> list[list[int]]:
    """Return the token that transformers in float32 would choose at each place of `found`, after the prompt and what stands before it.

    Equal to `found` exactly where greedy generation gives `found` (by induction over the places), at the cost of one pass a prompt.
    """
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    chosen = []
    for prompt, answer in zip(asked, found, strict=True):
        with torch.inference_mode():
            logits = loaded(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        chosen.append(logits.argmax(dim=-1).tolist())
    return chosen


def by_engine(port: int, asked: list[list[int]], tokens: int = TOKENS) -> list[list[int]]:
    body = {"model": "tiny", "prompt": asked, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        choices = json.load(answer)["choices"]
    return [choice["token_ids"] for choice in sorted(choices, key=lambda choice: choice["index"])]


@contextmanager
def engine(arguments: list[str], log: Path) -> Iterator[int]:
    """Serve through our launcher, started cold, and yield the port."""
    port = free_port()
    command = [sys.executable, "-m", "seatrial_engine.serve", *arguments, *OPTIONS, *SMALL_CACHE, "--port", str(port)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment())
    try:
        wait_until(lambda: healthy(port) or process.poll() is not None, START_S, f"healthy, see {log}")
        assert process.poll() is None, log.read_text()[-3000:]
        yield port
    finally:
        process.terminate()
        process.wait(60)


def differing(found: list[list[int]], expected: list[list[int]]) -> dict[str, tuple[list[int], list[int]]]:
    """Return the questions whose answers differ, with both."""
    pairs = zip(QUESTIONS, found, expected, strict=True)
    return {question: (one, other) for question, one, other in pairs if one != other}


def test_in_float32_it_gives_the_greedy_tokens_of_transformers(model: Path, loading: list[str], tmp_path: Path):
    asked = prompts(model)
    with engine([*loading, "--dtype", "float32"], tmp_path / "float32.log") as port:
        found = by_engine(port, asked)
    assert {len(tokens) for tokens in found} == {TOKENS}
    assert differing(found, by_transformers(model, asked, found)) == {}


def test_in_bfloat16_the_first_token_of_each_answer_is_that_of_transformers_in_float32(model: Path, loading: list[str], tmp_path: Path):
    asked = prompts(model)
    with engine([*loading, "--dtype", "bfloat16"], tmp_path / "bfloat16.log") as port:
        found = by_engine(port, asked, tokens=1)
    assert differing(found, by_transformers(model, asked, found)) == {}
