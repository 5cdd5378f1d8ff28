"""A check sees a program's values and exceptions as it would in the same process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from core.programs import Program, RunOutcome
from evals.sandbox import ProcessSandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessSandbox]:
    """One sandbox for all programs."""
    sandbox = ProcessSandbox(1, tmp_path_factory.mktemp("sandbox") / "scratch")
    yield sandbox
    sandbox.close()


PROGRAM = """
import collections, decimal, fractions, itertools, json, math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction

class Own(ValueError):
    pass

class Both(KeyError, IndexError):
    pass

class Outside(BaseException):
    pass

Point = namedtuple("Point", "x y")

def count(first, most):
    yield from range(first, first + most)

def broken():
    yield 1
    raise Own("half way")

def tell(error, *arguments):
    raise error(*arguments)

def f(source):
    return eval(source)
"""
VALUES = (
    *("Fraction(1, 3)", "Fraction(10 ** 5000, 3)", "Decimal('0.10')", "Decimal('-0')", "[Fraction(1, 2), Decimal(2)]"),
    *("10 ** 5000", "-10 ** 5000", "{10 ** 5000: [10 ** 1300]}", "2 ** 4096", "range(3)", "-0.0", "float('inf')", "True", "1", "1j"),
    *("{'a': 1}.keys()", "{'a': 1, 'b': 2}.values()", "{'a': [1]}.items()", "OrderedDict(a=1).keys()", "OrderedDict(b=1, a=2)"),
    *("Counter('aab')", "defaultdict(list, a=[1])", "deque([1, 2], 3)", "deque()", "Point(1, 2)"),
    *("map(str, [1, 2])", "zip('ab', [1, 2])", "(n for n in range(3))", "iter([])", "reversed([1, 2])", "[map(abs, [-1])]"),
    *(
        "itertools.islice(itertools.count(5), 2)",
        "count(1, 2000)",
        "{(1, 2), (3,)}",
        "{frozenset({1})}",
        "b'\\xff'",
        "bytearray(b'a')",
        "''",
        "None",
    ),
    *("'\\ud800'", "[[[[[]]]]]", "{1: {2: {3: ()}}}", "[1, 'a', None, 2.5]", "[True, 1, 1.0]"),
)
QUESTIONS = (
    *("value == 1", "value == [1, 2]", "value == {'a': 1}", "value == {'a'}", "value == ['1', '2']", "value == 'b'", "value == {}"),
    *("list(value) == [1, 2]", "list(value) == ['a']", "tuple(value) == ('1', '2')", "sorted(value) == [1, 2]", "len(value) == 2"),
    *("value[0] == 1", "next(value) == 5", "list(zip(range(3), value)) == [(0, 5), (1, 6), (2, 7)]", "value['z'] == 0", "value['z'] == []"),
    *("value * 3 == 1", "abs(value - Fraction(1, 3)) < 1e-9", "str(value) == '0.10'", "str(value) == '-0.0'", "str(value) == '-0'"),
    *("value == 10 ** 5000", "value % 7 == 10 ** 5000 % 7", "value is True", "value is None", "isinstance(value, bool)"),
    *(
        "isinstance(value, dict)",
        "isinstance(value, list)",
        "hasattr(value, '__next__')",
        "value",
        "not value",
        "sum(value) == 6",
        "5 in value",
    ),
    *("value == {(1, 2), (3,)}", "value == {1: {2: {3: ()}}}", "value == (1, 2)", "value == deque([1, 2])", "value == Counter('aba')"),
    *("sum(value) == sum(range(1, 2001))", "[list(part) for part in value] == [[1]]", "value == b'\\xff'", "value != value", "{value: 1}"),
    *("('a', [1]) in value", "list(value) == list(value)", "value == OrderedDict(a=2, b=1)", "value == Decimal(1) / 10", "value > 0"),
)
RAISED = (
    *("tell(ValueError, 'a')", "tell(Own, 'a')", "tell(Both, 'a')", "tell(KeyError, 'a')", "tell(KeyError, 1, 2)", "tell(OSError, 2, 'a')"),
    *("tell(ZeroDivisionError)", "1 / 0", "tell(SystemExit, 0)", "tell(Outside)", "tell(KeyboardInterrupt)", "json.loads('{')", "[][1]"),
    *(
        "Decimal(1) / 0",
        "list(broken())",
        "broken()",
        "tell(StopIteration, 4)",
        "b'\\xff'.decode()",
        "int('a')",
        "tell(AssertionError, 'a')",
    ),
    *("tell(RecursionError)", "tell(MemoryError)", "None.a", "undefined", "f('f')('1 / 0')", "tell(NotImplementedError)", "7"),
    *("tell(ExceptionGroup, 'a', [ValueError()])", "tell(UnicodeDecodeError, 'a', b'', 0, 1, 'b')", "tell(Exception, ['a'])"),
)
HANDLERS = (
    *("except ValueError: pass", "except Exception: pass", "except (KeyError, IndexError): pass", "except ArithmeticError: pass"),
    *("except Exception as e: assert str(e) == 'a'", "except Exception as e: assert str(e) == \"'a'\"", "except LookupError: pass"),
    *("except Exception as e: assert e.args == ('a',)", "except Exception as e: assert type(e).__name__ == 'Own'", "except OSError: pass"),
    *("except ZeroDivisionError: pass", "except BaseException as e: assert not isinstance(e, Exception)", "except AssertionError: pass"),
    *("except json.JSONDecodeError: pass", "except decimal.DivisionByZero: pass", "except UnicodeError: pass", "finally: pass"),
    *(
        "except Exception as e: assert type(e) is ValueError",
        "except Exception as e: assert e.args == (['a'],)",
        "except RuntimeError: pass",
    ),
)
LOOK = """
import decimal, json
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction

class Told(Exception):
    pass

def check(candidate):
    told = ""
    for question in {questions!r}:
        space = dict(globals(), value=candidate({source!r}))
        try:
            told += "yes " if eval(question, space) else "no "
        except Exception as error:
            told += "! "
    raise Told(told)
"""
"""Asks every question about a value, with a new one for each. The detail of the verdict shows the answers."""
CATCH = """
import decimal, json

class Told(Exception):
    pass

def check(candidate):
    told = ""
    for handler in {handlers!r}:
        space = dict(globals(), candidate=candidate, source={source!r})
        try:
            exec("try:\\n    value = candidate(source)\\n    [*value] if hasattr(value, '__next__') else 0\\n" + handler, space)
            told += "caught "
        except BaseException:
            told += "! "
    raise Told(told)
"""
"""Tries every handler on an exception."""
PLAIN = """
import json, sys
program, checks = json.load(sys.stdin)
told = []
for check in checks:
    space = {}
    exec(compile(program, "program.py", "exec", dont_inherit=True), space)
    exec(check, space)
    try:
        space["check"](space["f"])
    except space["Told"] as error:
        told.append(str(error))
json.dump(told, sys.stdout)
"""
"""Runs the program and each check in one process."""


def differences(sandbox: ProcessSandbox, checks: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return (source, what the check tells in plain Python, the verdict's detail) where the two disagree."""
    asked = json.dumps([PROGRAM, list(checks.values())])
    done = subprocess.run([sys.executable, "-I", "-c", PLAIN], input=asked, capture_output=True, text=True, timeout=120, check=True)
    results = sandbox.run([Program(name, PROGRAM, check, "f", cpu_s=20.0, wall_s=60.0) for name, check in checks.items()])
    return [
        (result.id, plain, result.detail)
        for plain, result in zip(json.loads(done.stdout), results, strict=True)
        if f"Told: {plain.strip()}" not in result.detail
    ]


def test_questions_about_a_value_have_the_answers_of_plain_python(sandbox: ProcessSandbox) -> None:
    assert differences(sandbox, {source: LOOK.format(questions=QUESTIONS, source=source) for source in VALUES}) == []


def test_exception_is_caught_by_the_handlers_that_catch_it_in_plain_python(sandbox: ProcessSandbox) -> None:
    assert differences(sandbox, {source: CATCH.format(handlers=HANDLERS, source=source) for source in RAISED}) == []


def outcome(sandbox: ProcessSandbox, code: str, body: str, given: str = "") -> RunOutcome:
    (result,) = sandbox.run([Program("p", code, f"def check(candidate):\n    {body}\n", "f", given=given)])
    return result.outcome


def test_iterator_runs_no_further_than_the_check_takes_its_items(sandbox: ProcessSandbox) -> None:
    code = "def f(x):\n    yield 1\n    yield 2\n    yield 3\n    raise ValueError\n"
    check = "value = candidate(0); assert [next(value), next(value), next(value)] == [1, 2, 3]"
    assert outcome(sandbox, code, check) is RunOutcome.PASSED


def test_candidate_receives_the_items_of_an_iterator(sandbox: ProcessSandbox) -> None:
    assert outcome(sandbox, "def f(x):\n    return sum(x)\n", "assert candidate(map(int, '123')) == 6") is RunOutcome.PASSED


def test_text_that_claims_to_equal_everything_is_its_content(sandbox: ProcessSandbox) -> None:
    code = "class E(str):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x):\n    return E('a')\n"
    assert outcome(sandbox, code, "assert candidate(0) == 'b'") is RunOutcome.FAILED
    assert outcome(sandbox, code, "assert candidate(0) == 'a'") is RunOutcome.PASSED


NOT_DATA = {
    "object": "object()",
    "own_class": "type('P', (), {'__eq__': lambda s, o: True})()",
    "function": "print",
    "list_in_itself": "[a := [], a.append(a), a][2]",
    "dataclass": "__import__('dataclasses').make_dataclass('P', ['x'])(1)",
}


@pytest.mark.parametrize("name", NOT_DATA)
def test_value_that_is_not_plain_data_counts_against_the_program(sandbox: ProcessSandbox, name: str) -> None:
    assert outcome(sandbox, f"def f(x):\n    return {NOT_DATA[name]}\n", "assert candidate(0)") is RunOutcome.FAILED


@pytest.mark.parametrize("code", ["def f(x: List[int]):\n    return 1\n", "def f(x) -> Nope:\n    return 1\n"])
def test_missing_name_in_an_annotation_is_an_error(sandbox: ProcessSandbox, code: str) -> None:
    assert outcome(sandbox, code, "assert candidate(0) == 1") is RunOutcome.FAILED
    assert outcome(sandbox, "from __future__ import annotations\n" + code, "assert candidate(0) == 1") is RunOutcome.PASSED


def test_program_may_recurse_as_deep_as_in_plain_python(sandbox: ProcessSandbox) -> None:
    code = "def f(n):\n    return n and 1 + f(n - 1)\n"
    assert outcome(sandbox, code, "assert candidate(995) == 995") is RunOutcome.PASSED
    assert outcome(sandbox, code, "assert candidate(1200) == 1200") is RunOutcome.FAILED


def test_entry_point_is_found_among_a_thousand_names(sandbox: ProcessSandbox) -> None:
    code = "".join(f"def g{number}(): pass\n" for number in range(1000)) + "globals()[5] = print\ndef f(x):\n    return 1\n"
    assert outcome(sandbox, code, "assert candidate(0) == 1") is RunOutcome.PASSED


OPENS = "def f(x):\n    return open('/nope')\n"
EXPECTS = "def check(candidate):\n    try:\n        candidate('a')\n    except {0}:\n        return\n    raise AssertionError('no {0}')\n"


@pytest.mark.parametrize(("expected", "outcome"), [("OSError", RunOutcome.PASSED), ("TypeError", RunOutcome.FAILED)])
def test_a_missing_file_is_an_error_of_the_system_for_the_check(sandbox: ProcessSandbox, expected: str, outcome: RunOutcome) -> None:
    (result,) = sandbox.run([Program("p", OPENS, EXPECTS.format(expected), "f")])
    assert result.outcome is outcome, result.detail


@pytest.mark.parametrize("program", ["def f(x):\n    return lambda: x\n", "def f(x):\n    return iter([lambda: x])\n"])
def test_a_value_that_is_not_data_is_no_exception_that_a_check_could_expect(sandbox: ProcessSandbox, program: str) -> None:
    check = EXPECTS.format("TypeError").replace("candidate('a')", "list(candidate('a'))")
    (result,) = sandbox.run([Program("p", program, check, "f")])
    assert result.outcome is RunOutcome.FAILED, result.detail
