"""The extractors against evalplus's sanitizer on the same answers: `python -m tests.bench.bench_extraction [ANSWERS]`.

ANSWERS is a file of JSON lines with `task_id` and `text`: chat answers to HumanEval. Without it, the answers are the shapes of
`tests/unit/test_extract_shapes.py`. evalplus 0.3.1 (Apache-2.0) is fetched into an environment of its own below the temporary folder; the
platform never imports it. Programs run in a plain child process: give only answers of models that you trust.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.harness.extract import extract
from evals.suite_loader import load_suite
from infra.models.smollm2 import find_uv
from tests.unit.test_extract_shapes import BODY, CHAT, PROMPT, TRAILING

PACKAGES = ("evalplus==0.3.1", "tree-sitter", "tree-sitter-python", "tqdm", "termcolor")
LIMIT_S = 10.0
SHAPES_TEST = """def check(candidate):
    assert candidate([1.0, 7.0, 1.2], 0.5) is True
    assert candidate([1.0, 7.0], 0.5) is False
    assert candidate([2.0, 3.0], 0.5) is False
"""
# evalplus.data downloads HumanEval+ when it is imported; the sanitizer does not need it
SANITIZE = """
import json, sys, types
data = sys.modules["evalplus.data"] = types.ModuleType("evalplus.data")
for name in ("get_human_eval_plus", "get_mbpp_plus", "load_solutions", "write_directory", "write_jsonl"):
    setattr(data, name, None)
from evalplus.sanitize import sanitize
print(json.dumps([sanitize(text, entry_point) for text, entry_point in json.load(sys.stdin)]))
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with what judges it. `completion`: it continues the prompt."""

    name: str
    prompt: str
    entry_point: str
    test: str
    text: str
    completion: bool = False


def main() -> None:
    """Print how many answers each accepts, and every answer on which they differ."""
    answers = of_file(Path(sys.argv[1])) if len(sys.argv) > 1 else shapes()
    ours = [extract(_extractor(one), prompt=one.prompt, answer=one.text, entry_point=one.entry_point) for one in answers]
    theirs = [f"{one.prompt}\n{code}" for one, code in zip(answers, sanitized(answers), strict=True)]
    accepted = [(passes(one, mine), passes(one, other)) for one, mine, other in zip(answers, ours, theirs, strict=True)]
    for one, (mine, other) in zip(answers, accepted, strict=True):
        if mine != other:
            sys.stdout.write(f"{one.name}: {'ours' if mine else 'evalplus'} only\n")
    counts = [sum(each) for each in zip(*accepted, strict=True)]
    sys.stdout.write(f"{len(answers)} answers: {counts[0]} accepted by our extractor, {counts[1]} by evalplus's sanitizer\n")


def shapes() -> list[Answer]:
    """Return the shapes of the unit tests; each holds a right program."""
    chat = [Answer(f"chat: {name}", PROMPT, "near_pair", SHAPES_TEST, text) for name, text in CHAT.items()]
    trailing = [Answer(f"completion: {text!r}", PROMPT, "near_pair", SHAPES_TEST, BODY + text, completion=True) for text in TRAILING]
    return chat + trailing


def of_file(path: Path) -> list[Answer]:
    """Return chat answers to HumanEval."""
    problems = {problem.task_id: problem for problem in load_suite("humaneval").problems}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asked = [(row, problems[row["task_id"]]) for row in rows]
    return [Answer(one.task_id, one.prompt, one.entry_point, one.test, row["text"]) for row, one in asked]


def sanitized(answers: Sequence[Answer]) -> list[str]:
    """Return evalplus's programs. A completion is joined to its prompt first, as evalplus does."""
    texts = [(f"{one.prompt}\n{one.text}" if one.completion else one.text, one.entry_point) for one in answers]
    uv, place = find_uv(), Path(tempfile.gettempdir()) / "seatrial-evalplus"
    if not (place / "bin/python").exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--python", str(place / "bin/python"), *PACKAGES], check=True)
    command = [str(place / "bin/python"), "-I", "-c", SANITIZE]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    return list(map(str, json.loads(done.stdout)))


def passes(answer: Answer, program: str) -> bool:
    """Return whether a program passes its test in a plain child process."""
    whole = f"{program}\n{answer.test}\ncheck({answer.entry_point})\n"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", whole], capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _extractor(answer: Answer) -> str:
    return "completion-v2" if answer.completion else "chat-v2"


if __name__ == "__main__":
    main()
