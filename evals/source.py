"""Generated source text: its syntax, its definitions, and the statements that the function needs. Nothing is executed."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence

MOST_CHARS = 100_000
"""Longer texts are not parsed: an answer of 65,536 tokens that is one function stays below."""
_MOST_CUTS = 6
_TESTS = frozenset({"print", "input", "pprint", "breakpoint", "exit", "quit"})
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)


def parsed(program: str) -> ast.Module | None:
    """Return the program's tree, or None where it has none or is too long. CPython's parser bounds its own stack."""
    if len(program) > MOST_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defines(program: str, name: str) -> bool:
    """Return whether a program defines a name at its top level; of one that does not parse, whether a `def` of it begins a line.

    A program that imports the name uses it: a block of tests, for example.
    """
    if name not in program:
        return False
    tree = parsed(program)
    if tree is None:
        return re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(name)}[ \t]*\(", program, re.MULTILINE) is not None
    return any(name in bound(statement) for statement in tree.body if not isinstance(statement, _IMPORTS))


def bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement of the top level binds, also inside of `if`, `try`, `for` and `with`."""
    if isinstance(statement, _DEFINITIONS):
        return {statement.name}
    if isinstance(statement, _IMPORTS):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    names: set[str] = set()
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (*_DEFINITIONS, *_IMPORTS)):
            names |= bound(node)
        else:
            waiting.extend(ast.iter_child_nodes(node))
    return names


def used(node: ast.AST) -> set[str]:
    """Return the names that a part of a program reads."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Store)}


def without_tests(program: str, entry_point: str) -> str:
    """Return a program without the statements of its top level that only try the function: prints, assertions, calls, their results.

    What prepares the function stays: definitions, imports, constants, tables, and statements that bind the function again.
    """
    tree = parsed(program)
    if tree is None:
        return program
    trying: set[str] = {entry_point}
    needed = set().union(*(used(one) for one in tree.body if isinstance(one, _DEFINITIONS) and not _is_test(one, entry_point)))
    unwanted: list[ast.stmt] = []
    for statement in tree.body:
        names = bound(statement)
        if not _prepares(statement, entry_point, needed) and _only_tries(statement, entry_point, trying):
            unwanted.append(statement)
            trying |= names
        elif isinstance(statement, _DEFINITIONS) and trying & used(statement):
            trying |= names  # `main`, and what calls it
        else:
            trying -= names - {entry_point}
    return _blanked(program, unwanted, tree.body)


def helpers(program: str, others: Sequence[str]) -> str:
    """Return the definitions, imports and constants of `others` that `program` uses and does not have, in their order."""
    tree = parsed(program)
    if tree is None:
        return ""
    offered = [(text, statement) for text in others if (other := parsed(text)) is not None for statement in other.body]
    offered = [(text, one) for text, one in offered if isinstance(one, (*_DEFINITIONS, *_IMPORTS, ast.Assign, ast.AnnAssign))]
    own = set().union(*(bound(statement) for statement in tree.body)) if tree.body else set()
    by_name = {name: number for number, (_text, statement) in enumerate(offered) for name in bound(statement) - own}
    chosen: set[int] = set()
    waiting = [by_name[name] for name in used(tree) if name in by_name]
    while waiting:
        number = waiting.pop()
        if number not in chosen:
            chosen.add(number)
            waiting.extend(by_name[name] for name in used(offered[number][1]) if name in by_name)
    return "".join(f"{_lines_of(*offered[number])}\n" for number in sorted(chosen))


def head_of(prompt: str, entry_point: str) -> str:
    """Return what precedes the entry point in a prompt: imports and helper functions, where that much parses."""
    tree = parsed(prompt) or parsed(prompt.rstrip() + "\n    pass\n")
    found = next((one for one in tree.body if isinstance(one, _DEFINITIONS) and one.name == entry_point), None) if tree else None
    if found is None:
        head = prompt[: max(prompt.rfind("\ndef ") + 1, 0)]
    else:
        first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
        head = "".join(line + "\n" for line in prompt.split("\n")[: first - 1])
    return head if parsed(head) is not None else ""


def joined(head: str, program: str) -> str:
    """Return `head` and `program` as one program; `from __future__` imports come first, as Python demands."""
    tree = parsed(program) if "__future__" in program else None
    future = [one for one in tree.body if isinstance(one, ast.ImportFrom) and one.module == "__future__"] if tree and head else []
    if not future or tree is None:
        return head + program
    first = "".join(f"from __future__ import {', '.join(alias.name for alias in one.names)}\n" for one in future)
    return first + head + _blanked(program, future, tree.body).lstrip("\n")


def as_body(prompt: str, answer: str) -> str | None:
    """Return the prompt continued by an answer that is a function's body, indented as the prompt's is; None where it is not one."""
    text = answer.strip("\n")
    last = next((line for line in reversed(prompt.split("\n")) if line.strip()), "")
    depth = len(last) - len(last.lstrip()) if not last.rstrip().endswith(":") else 0
    indent = " " * (depth or 4)
    before = prompt if prompt.endswith("\n") or not prompt else prompt + "\n"
    for body in (text, indent + text.lstrip(), textwrap.indent(textwrap.dedent(text), indent)):
        tree = parsed(before + body + "\n") if body[:1] in " \t" else None
        if tree is not None and tree.body and _has_body(tree):
            return before + body + "\n"
    return None


def parsable(before: str, code: str) -> str:
    """Return `code` up to the line at which `before + code` ceases to parse; unchanged where nothing worth having would remain."""
    kept = code
    for _ in range(_MOST_CUTS):
        if len(before) + len(kept) > MOST_CHARS:
            return code
        line = _fault(before + kept)
        if line is None:
            return kept if kept.strip() else code
        lines = (before + kept).split("\n")[: line - 1]
        shorter = "\n".join(lines) + "\n"
        if len(shorter) <= len(before) or len(shorter) >= len(before + kept):
            return code
        kept = shorter[len(before) :]
    return code


def _fault(program: str) -> int | None:
    """Return the line at which a program ceases to parse, None where it parses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except SyntaxError as error:
        return max(1, error.lineno or 1)
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None


def _is_test(definition: ast.stmt, entry_point: str) -> bool:
    """Return whether another definition calls the function: `main`, or a test."""
    return entry_point not in bound(definition) and entry_point in used(definition)


def _prepares(statement: ast.stmt, entry_point: str, needed: set[str]) -> bool:
    """Return whether a statement gives the function something: an attribute, an entry, or a name that the definitions use."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        places = [target.value for target in targets if isinstance(target, ast.Attribute | ast.Subscript)]
        return bool((bound(statement) & needed) - {entry_point}) or any(entry_point in used(place) for place in places)
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "setattr"
        and bool(call.args)
        and entry_point in used(call.args[0])
    )


def _only_tries(statement: ast.stmt, entry_point: str, trying: set[str]) -> bool:
    """Return whether a statement tries the function. `trying` holds the function's name and those that exist only for such statements."""
    if isinstance(statement, (*_DEFINITIONS, *_IMPORTS)) or entry_point in bound(statement):
        return False
    if isinstance(statement, ast.Assert) or _is_main(statement):
        return True
    names = used(statement)
    if names & trying:
        return True
    if not isinstance(statement, ast.Expr):
        return False
    call = statement.value
    if isinstance(call, ast.Call):
        return (isinstance(call.func, ast.Name) and call.func.id in _TESTS) or bool(names & {"doctest", "unittest", "pytest"})
    # A bare expression shows a value, as in a notebook; one that calls something may fill a table.
    return not isinstance(call, ast.Constant) and not any(isinstance(node, ast.Call) for node in ast.walk(call))


def _is_main(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in used(statement.test)


def _has_body(tree: ast.Module) -> bool:
    """Return whether the last function does more than to carry a docstring."""
    last = tree.body[-1]
    return isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
        not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)) for one in last.body
    )


def _blanked(program: str, unwanted: Iterable[ast.stmt], body: Sequence[ast.stmt]) -> str:
    """Return a program with empty lines in place of some statements; a line that other statements share stays."""
    lines = program.split("\n")
    gone = {id(statement): _span(statement) for statement in unwanted}
    if not gone:
        return program
    shared = {line for statement in body if id(statement) not in gone for line in _span(statement)}
    for span in gone.values():
        if not shared.intersection(span):
            for line in span:
                lines[line - 1] = ""
    return "\n".join(lines).rstrip("\n") + "\n"


def _span(statement: ast.stmt) -> range:
    first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", []))])
    return range(first, (statement.end_lineno or statement.lineno) + 1)


def _lines_of(text: str, statement: ast.stmt) -> str:
    span = _span(statement)
    return "\n".join(text.split("\n")[span.start - 1 : span.stop - 1])
