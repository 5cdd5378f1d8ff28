"""Suites of programming problems in HumanEval's format, how they are asked, and openings of synthetic conversations."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.benchmarks import Form, Plan, Sampling
from core.errors import Refused
from core.ids import Digest
from core.settings import TrialPolicy
from evals.suites.sources import SUITES, bad_suite, content, sidecar

LMEVAL = "lmeval:"
_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}")
_FIELDS = ("task_id", "prompt", "entry_point", "test")
_PROMPT = "{{prompt}}"
_WORD = re.compile(r"[\w.-]{1,100}")
_FORMS = (Form.COMPLETION, Form.CHAT)
_MOST_TOKENS = 65536
_MOST_STOPS = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem (Chen et al., Evaluating Large Language Models Trained on Code, 2021): `test` defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Text around a problem's prompt: `{{prompt}}` and `{{entry_point}}` are put in. Another text needs another version."""

    name: str
    version: int
    text: str

    @property
    def pinned(self) -> str:
        """`name@version`, as plans and results name it."""
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> Digest:
        """The sha256 of the text."""
        return Digest(hashlib.sha256(self.text.encode()).hexdigest())

    def render(self, prompt: str, entry_point: str = "") -> str:
        """Return the text with a problem's prompt in it."""
        before, mark, after = self.text.replace("{{entry_point}}", entry_point).partition(_PROMPT)
        return before + prompt + after if mark else before


@dataclass(frozen=True, slots=True)
class Way:
    """How problems are put in one form: the prompt, what cuts code out of the answer (evals/harness/extract.py), stops, longest answer."""

    prompt: PromptTemplate
    extractor: str
    stops: tuple[str, ...]
    max_tokens: int


_CHAT_TEXT = """Complete this Python function. Answer with the whole function, its imports included, in one ```python block.

```python
{{prompt}}
```"""
COMPLETION = Way(
    PromptTemplate("seatrial-completion", 1, _PROMPT), "completion-v1", ("\ndef ", "\nclass ", "\nif __name__", "\nprint("), 512
)
"""What holds where a suite's sidecar says nothing."""
CHAT = Way(PromptTemplate("seatrial-chat", 1, _CHAT_TEXT), "chat-v1", (), 1024)
"""As COMPLETION."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Problems under a name. `digest` is the sha256 of their (unpacked) file: scores are comparable when it is equal.

    `form` is the one it is made for; `completion` and `chat` say how it is asked in either.
    """

    name: str
    digest: Digest
    problems: tuple[Problem, ...]
    form: Form = Form.COMPLETION
    completion: Way = COMPLETION
    chat: Way = CHAT

    def way(self, form: Form = Form.OWN) -> Way:
        """Return how it is asked in a form."""
        return self.chat if (self.form if form is Form.OWN else form) is Form.CHAT else self.completion

    @property
    def prompt(self) -> PromptTemplate:
        """Of its own form."""
        return self.way().prompt

    @property
    def extractor(self) -> str:
        """Of its own form."""
        return self.way().extractor

    @property
    def stops(self) -> tuple[str, ...]:
        """Of its own form."""
        return self.way().stops

    @property
    def max_tokens(self) -> int:
        """Longest answer in its own form."""
        return self.way().max_tokens

    @property
    def lmeval(self) -> bool:
        """Whether it is one of lm-eval's tasks, which lm-eval asks and scores itself."""
        return self.name.startswith(LMEVAL)

    def shown(self, problem: Problem, form: Form) -> str:
        """Return what is sent for a problem: the raw prompt, or the user's message."""
        return self.way(form).prompt.render(problem.prompt, problem.entry_point)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a synthetic user says, turn by turn."""

    id: str
    turns: tuple[str, ...]


def plan_of(
    suite: Suite,
    *,
    samples: int,
    grid: Sequence[Sampling] | None = None,
    form: Form = Form.OWN,
    seed: int = 0,
    prompt: str | None = None,
) -> Plan:
    """Return the plan that asks every problem `samples` times at every point of `grid` (default: greedy, the suite's longest answer).

    `prompt` is the pin in the prompt registry, where that is not the suite file's own `name@version`.
    """
    asked = suite.form if form is Form.OWN else form
    way = suite.way(asked)
    points = tuple(grid) if grid else (Sampling(max_tokens=way.max_tokens),)
    keys = [point.key for point in points]
    if samples < 1 or len(set(keys)) < len(keys):
        raise Refused(
            f"{samples} samples at {len(keys)} points ({', '.join(keys)[:200]}) cannot be planned",
            reason="bad_plan",
            hint="ask for one sample or more, and for every point once",
        )
    return Plan(suite.name, suite.digest, prompt or way.prompt.pinned, way.extractor, asked, samples, points, way.stops, seed)


def load_suite(name: str, policy: TrialPolicy | None = None) -> Suite:
    """Load a suite: by its name in evals/suites, `humaneval`, `lmeval:TASK`, or the path of a .jsonl or .jsonl.gz of your own.

    A file `NAME.suite.toml` beside it says how it is asked. Raises Refused and names the file, the line and the fault, or says where
    it was looked for.
    """
    sources = policy or TrialPolicy()
    if name.startswith(LMEVAL):
        from evals.harness.lmeval_suites import describe  # noqa: PLC0415 - starts a child; the other suites are files

        return describe(name, sources.lmeval_tasks)
    raw, path = content(name, sources.humaneval, by_name=bool(_NAME.fullmatch(name)))
    header = sidecar(path)
    digest = Digest(hashlib.sha256(raw).hexdigest())
    expected = header.get("sha256", digest)
    if digest != expected:
        raise bad_suite(path, f"its sha256 is {digest}, not {str(expected)[:64]}", "fetch it again, or correct its .suite.toml")
    problems = tuple(_problem(row, path, number) for number, row in _rows(raw, path))
    twice = [task_id for task_id, times in Counter(problem.task_id for problem in problems).items() if times > 1]
    if twice:
        raise bad_suite(path, f"the task_id {twice[0][:80]!r} stands more than once")
    plain = path.name.removesuffix(".gz").removesuffix(".jsonl") or path.name
    return _with_header(Suite(plain, digest, problems), header, path)


def openings(path: Path = SUITES / "conversations.jsonl") -> tuple[Opening, ...]:
    """Load the openings of synthetic conversations. Raises Refused as `load_suite` does."""
    raw, _path = content(str(path), "", by_name=False)
    return tuple(_opening(row, path, number) for number, row in _rows(raw, path))


def _with_header(suite: Suite, header: Mapping[str, Any], path: Path) -> Suite:
    """Return the suite as its sidecar wants it asked: the top level speaks of `form`, the table of the other form's name of that."""
    asked = header.get("form", Form.COMPLETION)
    if asked not in _FORMS:
        raise bad_suite(path, f"its form {str(asked)[:40]!r} is neither completion nor chat", "correct its .suite.toml")
    form = Form(asked)
    said = {form: header, **{other: header.get(other.value, {}) for other in _FORMS if other is not form}}
    completion, chat = _way(COMPLETION, said[Form.COMPLETION], path), _way(CHAT, said[Form.CHAT], path)
    return replace(suite, form=form, completion=completion, chat=chat)


def _way(usual: Way, said: Any, path: Path) -> Way:
    try:
        prompt = said.get("prompt", {})
        template = PromptTemplate(
            str(prompt.get("name", usual.prompt.name)),
            int(prompt.get("version", usual.prompt.version)),
            str(prompt.get("text", usual.prompt.text)),
        )
        stops = tuple(str(stop) for stop in said.get("stops", usual.stops))
        way = Way(template, str(said.get("extractor", usual.extractor)), stops, int(said.get("max_tokens", usual.max_tokens)))
    except (AttributeError, TypeError, ValueError) as error:
        raise bad_suite(path, f"its header cannot be read: {error}", "correct its .suite.toml") from error
    if _PROMPT not in way.prompt.text or not _WORD.fullmatch(way.prompt.name) or way.prompt.version < 1:
        raise bad_suite(path, "its prompt needs a name, a version of 1 or more and a text with {{prompt}}", "correct its .suite.toml")
    if not 1 <= way.max_tokens <= _MOST_TOKENS or len(way.stops) > _MOST_STOPS or "" in way.stops:
        raise bad_suite(
            path, f"max_tokens must be 1 to {_MOST_TOKENS}, stops at most {_MOST_STOPS} and none empty", "correct its .suite.toml"
        )
    return way


def _rows(raw: bytes, path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise bad_suite(path, f"line {number} is not JSON: {str(error)[:100]}") from error
        if not isinstance(row, dict):
            raise bad_suite(path, f"line {number} is not a JSON object")
        rows.append((number, row))
    if not rows:
        raise bad_suite(path, "it is empty")
    return rows


def _problem(row: dict[str, Any], path: Path, number: int) -> Problem:
    for name in _FIELDS:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise bad_suite(path, f"line {number} has no {name}")
    if not row["entry_point"].isidentifier():
        raise bad_suite(path, f"line {number}: the entry_point {row['entry_point'][:80]!r} is not a Python name")
    if "def check(" not in row["test"]:
        raise bad_suite(path, f"line {number}: its test defines no check(candidate)")
    return Problem(row["task_id"], row["prompt"], row["entry_point"], row["test"], str(row.get("canonical_solution", "")))


def _opening(row: dict[str, Any], path: Path, number: int) -> Opening:
    turns = row.get("turns")
    if not isinstance(row.get("id"), str) or not isinstance(turns, list) or not turns:
        raise bad_suite(path, f"line {number} has no id and turns")
    if not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise bad_suite(path, f"line {number} has an empty turn")
    return Opening(row["id"], tuple(turns))
