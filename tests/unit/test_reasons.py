"""Reasons are members of one enum: product code states and compares members, and docs/reasons.md lists each of them."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from core.errors import Conflict, DiskFull, Refused, SeatrialError
from core.flow_runs import RunType
from core.reasons import Reason, UnknownReason, read_reason
from core.versions import Finding
from seatrial.errors import NOT_OURS
from serving.control.wait_reasons import WaitReason

ROOT: Final = Path(__file__).resolve().parents[2]
_LISTED = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
PRODUCT: Final = tuple(name for name in _LISTED if not name.startswith(("tests/", "client/", "serving/engines/vllm/")))
CLIENT: Final = tuple(name for name in _LISTED if name.startswith("client/src/"))
ENUM: Final = "core/reasons.py"
OF_PEOPLE: Final = frozenset({"Finding", "Fit"})
"""Values whose `reason` is a sentence for people."""
NO_MEMBERS: Final = frozenset({"reason", "code", "type", "what", "message", "hint", "detail"})
"""Attributes that no decision compares with a string: the first three are enums, the others are for people."""
NEWER: Final = "found_by_the_next_release"


@cache
def tree(module: str) -> ast.Module:
    """Return the parsed file."""
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def name_of(call: ast.Call) -> str:
    """Return the last part of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""


def stated(modules: tuple[str, ...]) -> Iterator[tuple[str, str, ast.expr]]:
    """Yield place, callee and value of every `reason=...`."""
    for module in modules:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "reason":
                        yield f"{module}:{node.lineno}", name_of(node), keyword.value


def compared(modules: tuple[str, ...]) -> Iterator[tuple[str, ast.Compare]]:
    """Yield every comparison with its place."""
    for module in modules:
        yield from ((f"{module}:{node.lineno}", node) for node in ast.walk(tree(module)) if isinstance(node, ast.Compare))


def is_text(node: ast.expr) -> bool:
    """Return whether a node is a string literal, with or without fields."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def strings(node: ast.Compare) -> set[str]:
    """Return the string literals that are operands of a comparison, or elements of an operand."""
    operands = (node.left, *node.comparators)
    found = [part for operand in operands for part in (operand.elts if isinstance(operand, ast.Set | ast.Tuple | ast.List) else [operand])]
    return {part.value for part in found if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def attributes(node: ast.Compare) -> set[str]:
    """Return the names of the attributes that are operands of a comparison."""
    return {operand.attr for operand in (node.left, *node.comparators) if isinstance(operand, ast.Attribute)}


def members(node: ast.AST) -> set[str]:
    """Return the members of Reason that a node names, except as a dictionary's key or in a comparison."""
    if isinstance(node, ast.Compare):
        return set()
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
        return {node.attr}
    below: Iterable[ast.AST] = node.values if isinstance(node, ast.Dict) else ast.iter_child_nodes(node)
    return {name for child in below for name in members(child)}


@cache
def tables() -> dict[str, list[tuple[str, str, str]]]:
    """Return the rows of each section of docs/reasons.md: reason, meaning, next step."""
    sections: dict[str, list[tuple[str, str, str]]] = {}
    title = ""
    for line in (ROOT / "docs/reasons.md").read_text(encoding="utf-8").splitlines():
        title = line.removeprefix("## ") if line.startswith("## ") else title
        if (row := re.fullmatch(r"\| `(\w+)` \| (.*) \| (.*) \|", line)) is not None:
            sections.setdefault(title, []).append((row[1], row[2].strip(), row[3].strip()))
    return sections


def listed(*titles: str) -> list[str]:
    """Return the reasons in these sections."""
    return [reason for title in titles for reason, _, _ in tables()[title]]


OWN: Final = ("The client", "Waiting")


def test_product_code_states_no_reason_as_a_string() -> None:
    assert [place for place, callee, value in stated(PRODUCT) if is_text(value) and callee not in OF_PEOPLE] == []


def test_no_decision_compares_a_reason_or_a_sentence_with_a_string() -> None:
    assert [place for place, node in compared(PRODUCT) if attributes(node) & NO_MEMBERS and any(strings(node))] == []


def test_only_core_makes_failed_findings_so_each_has_a_reason_for_its_name() -> None:
    made = [
        f"{module}:{node.lineno}"
        for module in PRODUCT
        if module != "core/versions.py" and not module.startswith("infra/")  # the doctor's findings are other ones
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and name_of(node) == "Finding"
        for keyword in node.keywords
        if keyword.arg == "passed" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is True)
    ]
    assert made == []


def test_every_reason_is_raised_somewhere() -> None:
    raised = {name for module in PRODUCT if module != ENUM for name in members(tree(module))}
    assert {reason.name for reason in Reason} - raised == set()


def test_a_member_s_name_is_its_value_in_capitals() -> None:
    assert [reason for reason in Reason if reason.name != reason.value.upper()] == []


def test_the_page_lists_every_reason_once() -> None:
    found = Counter(listed(*(title for title in tables() if title not in OWN)))
    assert {reason for reason, times in found.items() if times > 1} == set()
    assert set(found) == {str(reason) for reason in Reason}


def test_the_page_lists_every_reason_of_a_wait() -> None:
    assert listed("Waiting") == [str(reason) for reason in WaitReason]


def test_the_page_lists_every_reason_of_the_client() -> None:
    own = {value.value for _, _, value in stated(CLIENT) if isinstance(value, ast.Constant)} | {NOT_OURS}
    assert set(listed("The client")) == own - set(Reason)


def test_every_reason_on_the_page_has_a_meaning_and_a_next_step() -> None:
    assert [row for rows in tables().values() for row in rows if not all(row)] == []


def test_the_client_compares_only_with_reasons_of_the_platform_and_its_own() -> None:
    asked = {text for _, node in compared(CLIENT) if "reason" in attributes(node) for text in strings(node)}
    assert asked - {str(reason) for reason in (*Reason, *WaitReason)} - set(listed("The client")) == set()


def test_a_reason_of_this_release_is_read_as_its_member() -> None:
    assert read_reason("nan_in_weights") is Reason.NAN_IN_WEIGHTS


def test_a_reason_of_a_newer_release_stays_as_text() -> None:
    found = read_reason(NEWER)
    assert (type(found), found) == (UnknownReason, NEWER)
    assert found not in set(Reason)


@pytest.mark.parametrize("reason", [Reason.GATED, UnknownReason(NEWER)])
def test_an_error_keeps_its_reason_through_a_pickle(reason: Reason | UnknownReason) -> None:
    error = pickle.loads(pickle.dumps(Refused("no", reason=reason, hint="ask")))
    assert (error.reason, type(error.reason), error.hint) == (reason, type(reason), "ask")


def test_an_error_that_a_newer_release_pickled_keeps_its_reason_as_text() -> None:
    theirs = pickle.dumps(Conflict("no", reason=Reason.GATED)).replace(b"gated", b"newer")
    assert pickle.loads(theirs).reason == UnknownReason("newer")


def test_a_failed_finding_refuses_with_its_name_as_the_reason() -> None:
    error = Finding.failed(Reason.NAN_IN_WEIGHTS, "3 tensors hold NaN", "train it again").refused()
    assert (error.what, error.reason, error.hint) == ("3 tensors hold NaN", Reason.NAN_IN_WEIGHTS, "train it again")


def test_a_stored_finding_of_a_newer_release_refuses_with_its_name_as_text() -> None:
    assert Finding(NEWER, passed=False).refused().reason == UnknownReason(NEWER)


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    kinds: list[type[SeatrialError]] = [SeatrialError, *SeatrialError.__subclasses__(), DiskFull]
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_a_state_of_prefect_that_this_release_does_not_know_is_another() -> None:
    assert (RunType.read("CRASHED"), RunType.read("HIBERNATING")) == (RunType.CRASHED, RunType.OTHER)
