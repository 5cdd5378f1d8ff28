"""The examples that a problem shows in its own docstring, as checks. Only what is asked is read: never the hidden tests."""

from __future__ import annotations

import ast
import doctest
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

_MOST = 16  # examples of one problem
_MAX_CHARS = 20_000
_MOST_ENDS = 64  # places where a value may end
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.USub, ast.UAdd, ast.Load)
_AROUND = frozenset({"abs", "len", "list", "round", "set", "sorted", "str", "tuple"})
_ARROW = re.compile(
    r"\s*(?:\#\s*)?(?:(?:={1,3}>|-{1,2}>|➞|→|⇒|={1,3})\s*|(?::|(?:(?:should|must|will)\s+)?returns?|gives|is)\s+)(?P<value>.+)"
)
_SAID = {"true": "True", "false": "False", "null": "None"}
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Example:
    """One example: an expression of calls and literals, and the literal that it should give."""

    call: str
    want: str

    def check(self, entry_point: str) -> str:
        """Return a program's check in HumanEval's form: `check(candidate)`, which asserts this example. Floats within 1e-6."""
        call = ast.unparse(_Renamed(entry_point).visit(ast.parse(self.call, mode="eval")))
        if isinstance(ast.literal_eval(self.want), float):
            return f"def check(candidate):\n    assert abs({call} - ({self.want})) <= {_TOLERANCE}\n"
        return f"def check(candidate):\n    assert {call} == {self.want}\n"


def examples_in(prompt: str, entry_point: str) -> tuple[Example, ...]:
    """Return the examples of `entry_point` in the prompt, in their order, each once, 16 at most; () where it shows none.

    Read are doctests (`>>> f(1)` and the line below) and lines such as `f(1) -> 2`, `f(1) => 2`, `f(1) == 2`, `f(1) should return 2`.
    An example is taken only when its arguments and its value are literals, around it at most a builtin such as `round` or `sorted`:
    nothing of a prompt is ever run that is more than that.
    """
    if len(prompt) > _MAX_CHARS:
        return ()
    text = _docstring(prompt, entry_point)
    found = [*_doctests(text, entry_point), *_lines(text, entry_point)]
    return tuple(dict.fromkeys(found))[:_MOST]


def _docstring(prompt: str, entry_point: str) -> str:
    """Return the entry point's docstring, or the whole prompt where it cannot be told."""
    tree = _tree(prompt)
    if tree is None:
        return prompt
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point:
            return ast.get_docstring(node) or ""
    return prompt


def _doctests(text: str, entry_point: str) -> Iterator[Example]:
    try:
        shown = doctest.DocTestParser().get_examples(text)
    except ValueError:
        return
    for one in shown:
        example = _example(one.source.strip(), one.want.strip(), entry_point)
        if example is not None:
            yield example


def _lines(text: str, entry_point: str) -> Iterator[Example]:
    start = re.compile(rf"(?<![\w.]){re.escape(entry_point)}\(")
    for line in text.splitlines():
        for begin in start.finditer(line):
            example = _line(line[begin.start() :], entry_point)
            if example is not None:
                yield example


def _line(text: str, entry_point: str) -> Example | None:
    """Read `call arrow value` at the start of a line's rest: the shortest call that parses, the longest value that does."""
    for end in (at + 1 for at, char in enumerate(text) if char == ")"):
        if _expression(text[:end], entry_point):
            arrow = _ARROW.match(text[end:])
            return _value(text[:end], arrow["value"], entry_point) if arrow else None
    return None


def _value(call: str, rest: str, entry_point: str) -> Example | None:
    """Read the longest literal at the start of `rest` that a sentence's end or a word follows: of `1 + 2 = 3` no part is taken."""
    words = rest.split(" #", maxsplit=1)[0].strip()
    ends = (at for at in range(len(words), 0, -1) if re.match(r"\s*$|[.,;]+(?:\s|$)|\s+[A-Za-z(]", words[at:]))
    for end in islice(ends, _MOST_ENDS):
        value = words[:end].rstrip(" .,;")
        example = _example(call, _SAID.get(value, value), entry_point)
        if example is not None:
            return example
    return None


def _example(call: str, want: str, entry_point: str) -> Example | None:
    if not want or not _expression(call, entry_point):
        return None
    tree = _evaluable(want)
    if tree is None or not all(isinstance(node, _LITERALS) for node in ast.walk(tree.body)):
        return None
    try:
        ast.literal_eval(tree)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None
    return Example(ast.unparse(_evaluable(call) or tree), ast.unparse(tree))


def _expression(text: str, entry_point: str) -> bool:
    """Whether `text` calls the entry point on literals, perhaps within a builtin, and does nothing else."""
    tree = _evaluable(text)
    if tree is None:
        return False
    calls = [node for node in ast.walk(tree.body) if isinstance(node, ast.Call)]
    names = [call.func.id if isinstance(call.func, ast.Name) else "" for call in calls]
    known = {entry_point} | _AROUND
    functions = {id(call.func) for call in calls}
    return (
        entry_point in names
        and all(name in known for name in names)
        and all(isinstance(node, (*_LITERALS, ast.Call, ast.keyword)) or id(node) in functions for node in ast.walk(tree.body))
    )


def _evaluable(text: str) -> ast.Expression | None:
    tree = _tree(text.strip())
    match tree.body if tree is not None else []:
        case [ast.Expr(value=value)]:
            return ast.Expression(value)
        case _:
            return None


def _tree(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in a prompt are not warnings about our code
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Renamed(ast.NodeTransformer):
    """Calls the candidate by the name that a check gives it."""

    def __init__(self, entry_point: str) -> None:
        self._entry_point = entry_point

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Rename the entry point."""
        return ast.Name("candidate", node.ctx) if node.id == self._entry_point else node
