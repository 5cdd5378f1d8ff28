"""Mutants of HumanEval's canonical solutions in their imports, annotations, decorators, names, operators, constants and values."""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Callable, Sequence
from random import Random

from core.programs import Program
from evals.suites.suite import Problem
from tests.contract.humaneval import mutants

_LIMIT_S = 3.0
_ANNOTATIONS = ("Nope", "List[Nope]", "Optional[int]", "List[int]", "Dict[str, Any]", "'Nope'", "int | None", "list[int]", "1 / 0")
_DECORATORS = (
    *(
        "nope",
        "functools.cache",
        "staticmethod",
        "property",
        "print",
        "list",
        "(lambda f: f)",
        "(lambda f: None)",
        "dataclass",
        "classmethod",
    ),
    *("(lambda f: lambda *a: f(*a))", "__import__('functools').cache", "__import__('functools').lru_cache(None)"),
)
_IMPORTS = (
    *(
        "from typing import *",
        "import typing",
        "from __future__ import annotations",
        "import numpy as np",
        "from math import *",
        "import math",
    ),
    *(
        "from typing import List",
        "from typing import Nope",
        "import collections.abc",
        "from collections import *",
        "from itertools import *",
    ),
)
_WRAPS = (
    *("iter({})", "map(lambda item: item, {})", "(item for item in {})", "list({})", "tuple({})", "set({})", "sorted({})", "dict({})"),
    *("__import__('fractions').Fraction({})", "__import__('decimal').Decimal({})", "float({})", "int({})", "str({})", "bool({})", "[{}]"),
    *(
        "-({})",
        "({}) or None",
        "{{1: {}}}[1]",
        "({}, {})",
        "{{item: 1 for item in {}}}.keys()",
        "{{item: 1 for item in {}}}",
        "complex({})",
    ),
    *(
        "dict(enumerate({})).values()",
        "__import__('collections').Counter({})",
        "__import__('collections').deque({})",
        "bytes({})",
        "10**5000*({})",
    ),
)
_STATEMENTS = (
    "yield 1",
    "raise ValueError('x')",
    "nope",
    "import nope",
    "global found",
    "return None",
    "print('passed')",
    "x: Nope = 1",
    "del nope",
)

Change = Callable[[ast.Module, ast.FunctionDef, Random], bool]


def surface_mutants(problems: Sequence[Problem], count: int, seed: int) -> tuple[Program, ...]:
    """Return `count` mutants in turn over the problems. The same seed gives the same mutants; a smaller count gives the first of them."""
    chance = Random(seed)
    order = list(problems)
    chance.shuffle(order)
    return tuple(_mutant(order[number % len(order)], f"{seed}/{number}", Random(f"{seed}/{number}")) for number in range(count))


def _mutant(problem: Problem, name: str, chance: Random) -> Program:
    source = ast.unparse(ast.parse(problem.prompt + problem.canonical_solution)) + "\n"
    code = source
    while code == source:
        base = chance.choice(_inner(problem)) if chance.random() < _SHARE_OF_INNER else source
        code = _changed(base, problem.entry_point, chance)
    return Program(f"{problem.task_id} {name}", code, problem.test, problem.entry_point, cpu_s=_LIMIT_S, given=problem.prompt)


@functools.cache
def _inner(problem: Problem) -> tuple[str, ...]:
    return tuple(mutant.code for mutant in mutants(problem, 8)) or (problem.prompt + problem.canonical_solution,)


_SHARE_OF_INNER = 0.2
"""The share of mutants in which an operator, a constant or a statement is changed as well."""


def _changed(source: str, entry_point: str, chance: Random) -> str:
    tree = ast.parse(source)
    function = [part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == entry_point][-1]
    for _time in range(chance.choice((1, 1, 1, 2))):
        while not chance.choice(_CHANGES)(tree, function, chance):
            pass
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _drop_import(tree: ast.Module, _function: ast.FunctionDef, chance: Random) -> bool:
    imports = [part for part in tree.body if isinstance(part, ast.Import | ast.ImportFrom)]
    if not imports:
        return False
    tree.body.remove(chance.choice(imports))
    return True


def _add_import(tree: ast.Module, _function: ast.FunctionDef, chance: Random) -> bool:
    tree.body[:0] = ast.parse(chance.choice(_IMPORTS)).body
    return True


def _annotate(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    text = chance.choice(_ANNOTATIONS)
    where = chance.randrange(len(function.args.args) + 1)
    annotation = ast.parse(text, mode="eval").body
    if where == len(function.args.args):
        function.returns = annotation
    else:
        function.args.args[where].annotation = annotation
    return True


def _drop_annotations(_tree: ast.Module, function: ast.FunctionDef, _chance: Random) -> bool:
    had = function.returns is not None
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    return had


def _decorate(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    function.decorator_list.append(ast.parse(chance.choice(_DECORATORS), mode="eval").body)
    return True


def _rename(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    """Replace one name in the function by another of its names, or by one that does not exist."""
    names = [node for line in function.body for node in ast.walk(line) if isinstance(node, ast.Name)]
    if not names:
        return False
    one = chance.choice(names)
    one.id = chance.choice([*sorted({node.id for node in names}), f"{one.id}s"])
    return True


def _rename_definition(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    function.name = chance.choice((function.name + "_", function.name.upper(), "check", "candidate"))
    return True


def _rename_argument(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    if not function.args.args:
        return False
    argument = chance.choice(function.args.args)
    argument.arg = chance.choice((argument.arg + "_", "check", "list", "len"))
    return len({other.arg for other in function.args.args}) == len(function.args.args)


def _default(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    function.args.defaults[:] = [ast.parse(chance.choice(("None", "nope", "[]", "0")), mode="eval").body]
    return bool(function.args.args)


def _wrap_value(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
    if not returns:
        return False
    wrap = chance.choice(_WRAPS)
    for node in returns if chance.random() < 0.7 else [chance.choice(returns)]:
        text = ast.unparse(copy.deepcopy(node.value)) if node.value else ""
        node.value = ast.parse(wrap.format(*[f"({text})"] * wrap.count("{}")), mode="eval").body
    return True


def _add_statement(_tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    function.body.insert(chance.randrange(len(function.body)), ast.parse(chance.choice(_STATEMENTS)).body[0])
    return True


def _hide(tree: ast.Module, function: ast.FunctionDef, chance: Random) -> bool:
    """Define the function in a class, under a condition, asynchronously, or twice."""
    at = tree.body.index(function)
    kind = chance.choice(("class Solution: pass", "if 1: pass", "if 0: pass", "try: pass\nfinally: pass", "twice", "async"))
    if kind == "twice":
        tree.body.insert(chance.choice((at, at + 1)), ast.parse(f"def {function.name}(*a): pass").body[0])
    elif kind == "async":
        tree.body[at] = ast.AsyncFunctionDef(**vars(function))
    else:
        tree.body[at] = ast.parse(kind).body[0]
        tree.body[at].body[:] = [function]  # type: ignore[attr-defined]
    return True


_CHANGES: tuple[Change, ...] = (
    *(
        _drop_import,
        _drop_import,
        _drop_import,
        _add_import,
        _annotate,
        _annotate,
        _drop_annotations,
        _decorate,
        _decorate,
        _rename,
        _rename,
    ),
    *(_rename_definition, _rename_argument, _default, _wrap_value, _wrap_value, _wrap_value, _add_statement, _hide),
)
"""Every change as often as it is to be chosen. One that finds nothing to change returns False."""
