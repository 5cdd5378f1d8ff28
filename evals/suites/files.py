"""Suites and openings that are read from files."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.benchmarks import Form
from core.ids import Digest
from evals.source import defines, parsed
from evals.suites.sources import SUITES, bad_suite, content, sidecar
from evals.suites.suite import CHAT, COMPLETION, PROMPT, Opening, Problem, PromptTemplate, Suite, Way

_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}")
_FIELDS = ("task_id", "prompt", "entry_point", "test")
_WORD = re.compile(r"[\w.-]{1,100}")
_FORMS = (Form.COMPLETION, Form.CHAT)
_PROMPT_KEYS = frozenset({"name", "version", "text"})
_WAY_KEYS = frozenset({"prompt", "extractor", "stops", "max_tokens"})
_HEADER_KEYS = _WAY_KEYS | {"sha256", "form", "forms", *_FORMS}
_MOST_TOKENS = 65536
_MOST_STOPS = 16


def read_suite(name: str, humaneval: str = "") -> Suite:
    """Read a suite by its name in this folder, `humaneval`, or the path of a .jsonl or .jsonl.gz file.

    `humaneval` is the path of HumanEval's file; without it the installed package is used, then the hub. A file `NAME.suite.toml`
    beside the suite sets its prompts, extractors, stops and longest answers. Raises Refused with the file, the line and the fault.
    """
    raw, path = content(name, humaneval, by_name=bool(_NAME.fullmatch(name)))
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
    """Load the openings of synthetic conversations. Raises Refused as `read_suite` does."""
    raw, _path = content(str(path), "", by_name=False)
    return tuple(_opening(row, path, number) for number, row in _rows(raw, path))


def _with_header(suite: Suite, header: Mapping[str, Any], path: Path) -> Suite:
    """Return the suite with the rules in its .suite.toml. The top level holds those of `form`, a table those of the other form."""
    _expect_keys(header, _HEADER_KEYS, path)
    asked = header.get("form", Form.COMPLETION)
    if asked not in _FORMS:
        raise bad_suite(path, f"its form {str(asked)[:40]!r} is neither completion nor chat", "correct its .suite.toml")
    form, forms = Form(asked), _forms(header.get("forms", list(_FORMS)), path)
    if form not in forms:
        raise bad_suite(path, f"its form {form} is not among its forms, {', '.join(forms)}", "correct its .suite.toml")
    said = {form: header, **{other: header.get(other.value, {}) for other in _FORMS if other is not form}}
    for name in set(_FORMS) & header.keys():
        if isinstance(header[name], dict):
            _expect_keys(header[name], _WAY_KEYS, path)
    completion, chat = _way(COMPLETION, said[Form.COMPLETION], path), _way(CHAT, said[Form.CHAT], path)
    return replace(suite, form=form, completion=completion, chat=chat, forms=forms)


def _forms(said: Any, path: Path) -> tuple[Form, ...]:
    if not isinstance(said, list) or not said or not all(one in _FORMS for one in said):
        raise bad_suite(path, f"forms must be a list of completion, chat or both, got {str(said)[:80]}", "correct its .suite.toml")
    return tuple(form for form in _FORMS if form in said)


def _way(usual: Way, said: Any, path: Path) -> Way:
    try:
        prompt = said.get("prompt", {})
        _expect_keys(prompt, _PROMPT_KEYS, path)
        template = PromptTemplate(
            str(prompt.get("name", usual.prompt.name)),
            int(prompt.get("version", usual.prompt.version)),
            str(prompt.get("text", usual.prompt.text)),
        )
        stops = _stops(said.get("stops", usual.stops))
        way = Way(template, str(said.get("extractor", usual.extractor)), stops, int(said.get("max_tokens", usual.max_tokens)))
    except (AttributeError, TypeError, ValueError) as error:
        raise bad_suite(path, f"its header cannot be read: {error}", "correct its .suite.toml") from error
    if PROMPT not in way.prompt.text or not _WORD.fullmatch(way.prompt.name) or way.prompt.version < 1:
        raise bad_suite(path, "its prompt needs a name, a version of 1 or more and a text with {{prompt}}", "correct its .suite.toml")
    if not 1 <= way.max_tokens <= _MOST_TOKENS or len(way.stops) > _MOST_STOPS or "" in way.stops:
        raise bad_suite(
            path, f"max_tokens must be 1 to {_MOST_TOKENS}, stops at most {_MOST_STOPS} and none empty", "correct its .suite.toml"
        )
    return way


def _stops(said: Any) -> tuple[str, ...]:
    if isinstance(said, str) or not all(isinstance(stop, str) for stop in said):
        raise TypeError(f"stops must be a list of strings, got {str(said)[:80]!r}")
    return tuple(said)


def _expect_keys(table: Mapping[str, Any], known: frozenset[str], path: Path) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise bad_suite(path, f"its header has the unknown key {unknown[0][:80]!r}", f"use {', '.join(sorted(known))} in its .suite.toml")


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
    problem = Problem(row["task_id"], row["prompt"], row["entry_point"], row["test"], str(row.get("canonical_solution", "")))
    if not defines(problem.test, "check") or parsed(problem.test) is None:
        raise bad_suite(path, f"line {number}: its test is not valid Python that defines check(candidate)")
    solution = problem.prompt + problem.canonical_solution
    if problem.canonical_solution and (parsed(solution) is None or not defines(solution, problem.entry_point)):
        raise bad_suite(path, f"line {number}: prompt and canonical_solution are not valid Python that defines {problem.entry_point[:80]}")
    return problem


def _opening(row: dict[str, Any], path: Path, number: int) -> Opening:
    turns = row.get("turns")
    if not isinstance(row.get("id"), str) or not isinstance(turns, list) or not turns:
        raise bad_suite(path, f"line {number} has no id and turns")
    if not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise bad_suite(path, f"line {number} has an empty turn")
    return Opening(row["id"], tuple(turns))
