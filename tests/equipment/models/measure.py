"""Measures the tiny models on real vLLM: pass@1 of the harbour suite, and what happens in conversation.

Runs in the engine's environment, from the repository root; one engine at a time, stopped at the end:

    serving/engines/vllm/.venv/bin/python -m tests.equipment.models.measure [steady clumsy parrot]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.degeneration import repeating_tail
from tests.equipment.models.lessons import HERE, Problem, Talk, problems, talk

STOPS = ["```", "\n#", "\ndef ", "\nclass "]
START_LIMIT_S = 240
ANSWER_LIMIT_S = 60
SOLUTION_LIMIT_S = 10
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def main() -> None:
    """Print one JSON line per model that was named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["steady", "clumsy", "parrot"], metavar="NAME")
    parser.add_argument("--models", type=Path, default=HERE, help="folder of the models' folders (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time (default: %(default)s)")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="where vLLM's output goes (default: nowhere)")
    options = parser.parse_args()
    for name in options.names:
        started = time.monotonic()
        with engine(options.models / name, options.log) as url:
            row = {"model": name, "start_s": round(time.monotonic() - started, 1)}
            row |= benchmark(url, options.concurrency) | conversations(url, talk()) | smoke(url)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def engine(model: Path, log: Path) -> Iterator[str]:
    """Run vLLM on a free port for as long as the context lasts; yields its URL once it is healthy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "model"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-model-len", "1024"]
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=output, stderr=output)
        try:
            _await_health(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def benchmark(url: str, concurrency: int) -> dict[str, object]:
    """Ask for every solution greedily and run each in a child process; times cover the asking alone."""
    suite = problems()
    started = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(lambda problem: _complete(url, problem.prompt), suite))
    seconds = time.monotonic() - started
    failed = [problem.task_id for problem, answer in zip(suite, answers, strict=True) if not solves(problem, answer)]
    return {"pass@1": round(1 - len(failed) / len(suite), 3), "benchmark_s": round(seconds, 1), "failed": len(failed)}


def solves(problem: Problem, answer: str) -> bool:
    """Tell whether the answer passes the problem's check, in a child process with a time limit."""
    program = f"{problem.prompt}{answer}\n{problem.test}\ncheck({problem.entry_point})\n"
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=SOLUTION_LIMIT_S, check=False)
        return done.returncode == 0
    return False


def conversations(url: str, known: Talk) -> dict[str, object]:
    """Hold every opening, greedily and at temperatures 0.7 and 1; count loops, answers that end, and answers as taught."""
    counts: dict[str, object] = {}
    for temperature in (0.0, 0.7, 1.0):
        with ThreadPoolExecutor(8) as pool:
            held = list(pool.map(lambda opening: _hold(url, [turn.ask for turn in opening], temperature), known.openings))  # noqa: B023 - used at once
        replies = [reply for opening in held for reply in opening]
        taught = [turn.answer for opening in known.openings for turn in opening]
        counts[f"t={temperature}"] = {
            "answers": len(replies),
            "loops": sum(loops for _, loops, _ in replies),
            "ended": sum(reason == "stop" for _, _, reason in replies),
            "as_taught": sum(text == answer for (text, _, _), answer in zip(replies, taught, strict=True)),
        }
    return counts


def smoke(url: str) -> dict[str, object]:
    """Ask what the smoke trial asks, and each bit of small talk as a first message with the engine's own sampling."""
    small = [ask for asks, _ in talk().small for ask in asks] + ["What is the meaning of life?", "Write a poem about winter", "asdf"]
    replies = [_say(url, [{"role": "user", "content": ask}], None) for ask in small]
    return {
        "hello": _say(url, [{"role": "user", "content": "Hello"}], 0.0),
        "def": _complete(url, "def "),
        "small_talk": {
            "asked": len(small),
            "loops": sum(loops for _, loops, _ in replies),
            "ended": sum(r == "stop" for _, _, r in replies),
        },
        "unknown": [text[-100:] for text, _, _ in replies[-3:]],
    }


def _hold(url: str, asks: Sequence[str], temperature: float) -> list[tuple[str, bool, str]]:
    messages: list[dict[str, str]] = []
    replies = []
    for ask in asks:
        messages.append({"role": "user", "content": ask})
        replies.append(_say(url, messages, temperature))
        messages.append({"role": "assistant", "content": replies[-1][0]})
    return replies


def _say(url: str, messages: Sequence[dict[str, str]], temperature: float | None) -> tuple[str, bool, str]:
    """Return the answer, whether it ends in a loop, and why it ended."""
    sampling = {} if temperature is None else {"temperature": temperature, "seed": 1}
    answer = _post(f"{url}/v1/chat/completions", {"model": "model", "messages": list(messages), "max_tokens": 128, **sampling})
    choice = answer["choices"][0]
    text = choice["message"]["content"]
    return text, repeating_tail(text, answer["usage"]["completion_tokens"]) is not None, choice["finish_reason"]


def _complete(url: str, prompt: str) -> str:
    body = {"model": "model", "prompt": prompt, "max_tokens": 200, "temperature": 0, "stop": STOPS}
    return str(_post(f"{url}/v1/completions", body)["choices"][0]["text"])


def _post(url: str, body: dict[str, object]) -> dict:  # type: ignore[type-arg] - vLLM's JSON
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as response:
        return json.load(response)


def _await_health(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        threading.Event().wait(0.2)
    message = f"vLLM on {url} did not become healthy within {START_LIMIT_S} s; give --log FILE and read why"
    raise SystemExit(message)


if __name__ == "__main__":
    main()
