"""Nothing that a program does or sends is a fault of the sandbox: it is a failure of the program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.programs import Program, RunOutcome, RunResult
from evals.sandbox import ProcessSandbox, process
from evals.sandbox.codec import MAX_LINE_BYTES

CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"
SQUARE = "def f(x):\n    return x * x\n"
SAY = "import os\ndef say(data):\n    for fd in range(3, 24):\n        try: os.write(fd, data)\n        except OSError: pass\n"
"""Writes to the connection to the judge, whatever its number is."""
FORGE = (
    SQUARE
    + "import json, sys\ncell = sys.modules['evals.sandbox.cell']\nreal = cell.encode\n"
    + "cell.encode = lambda *answer: forge(real(*answer))\n"
)
"""Replaces every answer, its token included, by what `forge` makes of it."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessSandbox]:
    """One sandbox for all attacks."""
    sandbox = ProcessSandbox(1, tmp_path_factory.mktemp("sandbox") / "scratch")
    yield sandbox
    sandbox.close()


def run(sandbox: ProcessSandbox, code: str, check: str = CHECK, given: str = "", wall_s: float = 8.0) -> RunResult:
    (result,) = sandbox.run([Program("p", code, check, "f", cpu_s=2.0, wall_s=wall_s, given=given)])
    return result


def names(*pairs: str) -> str:
    return FORGE + (
        "def forge(line):\n    token = json.loads(line)[1][0]\n"
        f'    return (\'["tuple", ["\' + token + \'", "loaded", ["dict", [{", ".join(pairs)}]]]]\\n\').encode()\n'
    )


DEEP = "[\"list\", [' + '[\"list\", [' * 150 + ']]' * 150 + ']]"
SENT = {
    "fault_at_load": SAY + 'say(b\'["tuple", ["fault", "out of processes"]]\\n\')\n' + SQUARE,
    "reason_at_load": SAY + "say(b'out of processes (fork)\\n')\n" + SQUARE,
    "ready_again": SAY + "say(b'ready\\n')\n" + SQUARE,
    "fault_when_called": SAY + 'def f(x):\n    say(b\'["tuple", ["fault", "x"]]\\n\')\n    return x * x\n',
    "empty_line": SAY + "say(b'\\n')\n" + SQUARE,
    "verdict": SAY + 'say(b\'{"judge": "it ended with 1"}\\n\')\n' + SQUARE,
    "number_too_large_for_a_float": FORGE
    + "def forge(line): return line.replace(b' 4]]', b' [\"complex\", [' + b'9' * 400 + b', 0]]]]')\n",
    "number_of_5000_digits": FORGE + "def forge(line): return line.replace(b' 4]]', b' ' + b'4' * 5000 + b']]')\n",
    "fraction_without_denominator": FORGE + "def forge(line): return line.replace(b' 4]]', b' [\"Fraction\", [1, 0]]]]')\n",
    "decimal_that_is_none": FORGE + "def forge(line): return line.replace(b' 4]]', b' [\"Decimal\", [\"x\"]]]]')\n",
    "lent_text": FORGE + "def forge(line): return line.replace(b' 4]]', b' [\"lent\", \"0\"]]]')\n",
    "lent_that_is_none": FORGE + "def forge(line): return line.replace(b' 4]]', b' [\"lent\", 7]]]')\n",
    "other_token": FORGE + "def forge(line): return line.replace(json.loads(line)[1][0].encode(), b'0' * 16)\n",
    "no_token": FORGE + 'def forge(line): return b\'["tuple", ["value", 4]]\\n\'\n',
    "list_for_a_tuple": FORGE + "def forge(line): return line.replace(b'\"tuple\"', b'\"set\"', 1)\n",
    "json_of_two_values": FORGE + "def forge(line): return line[:-1] + line\n",
    "names_that_are_lists": names('["f", "function"], ["check", ["list", []]]'),
    "names_that_are_deep": names(f'["f", "function"], ["check", {DEEP}]'),
    "module_without_a_name": names('["f", "function"], ["check", "module "]'),
    "names_of_numbers": names('["f", 1], [2, 3]'),
    "check_is_a_nameless_module": "import types\ncheck = types.ModuleType('')\ndef f(x): return 0\n",
    "giant_program": "def f(x): return 0\n#" + "a" * (MAX_LINE_BYTES + 1),
    "ends_as_a_failed_set_up_does": "import os\ndef f(x): os._exit(200)\n",
    "ends_at_load_as_a_failed_set_up_does": "import os\nos._exit(200)\n" + SQUARE,
    "alarm": "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ndef f(x):\n    time.sleep(5)\n",
    "profiling_alarm": "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0.01)\ndef f(x):\n    while True: pass\n",
    "crash_at_load": "import ctypes\nctypes.string_at(0)\n" + SQUARE,
    "closes_everything_at_load": "import os\nos.closerange(0, 64)\n" + SQUARE,
    "exception_with_odd_names": "class E(Exception): pass\nE.__name__ = E.__qualname__ = ''\nE.__module__ = 'json.x'\ndef f(x): raise E\n",
    "exception_of_no_class": "class M(type):\n    __module__ = 5\nclass E(Exception, metaclass=M): pass\ndef f(x): raise E\n",
    "group_of_exceptions": "def f(x): raise ExceptionGroup('a', [ValueError(), OSError(1, 'x')])\n",
    "exception_with_itself": "def f(x):\n    e = ValueError()\n    e.args = (e,)\n    raise e\n",
    "unicode_error": "def f(x): return b'\\xff'.decode()\n",
    "system_exit": "def f(x): raise SystemExit(0)\n",
    "exit_of_a_generator": "def f(x): raise GeneratorExit\n",
    "stop_iteration": "def f(x): raise StopIteration(4)\n",
    "interrupt": "def f(x): raise KeyboardInterrupt\n",
    "exception_that_no_one_catches": "class E(BaseException): pass\ndef f(x): raise E\n",
    "endless_iterator": "import itertools\ndef f(x): return itertools.count()\n",
    "iterator_that_exits": "import os\ndef f(x):\n    yield 1\n    os._exit(0)\n",
}
"""Programs that send what no program should, by what they do."""


@pytest.mark.parametrize("name", SENT)
def test_what_a_program_sends_or_does_counts_against_it(sandbox: ProcessSandbox, name: str) -> None:
    result = run(sandbox, SENT[name])
    assert result.outcome in {RunOutcome.FAILED, RunOutcome.TIMED_OUT}, result


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"])
@pytest.mark.parametrize("end", ["", "\\ud800", "\\n"])
def test_answer_in_another_encoding_counts_against_the_program(sandbox: ProcessSandbox, encoding: str, end: str) -> None:
    forge = f"def forge(line): return (line.decode() + {end!r}).encode({encoding!r}, 'surrogatepass') + b'\\n'\n"
    result = run(sandbox, FORGE + forge)
    assert result.outcome in {RunOutcome.FAILED, RunOutcome.TIMED_OUT} or encoding == "utf-7", result


def test_any_bytes_for_an_answer_count_against_the_program(sandbox: ProcessSandbox) -> None:
    forge = (
        "import random\nchance = random.Random({seed})\ndef forge(line):\n    line = bytearray(line)\n"
        "    for _ in range(chance.randrange(1, 9)):\n        line[chance.randrange(len(line))] = chance.randrange(256)\n"
        "    return bytes(line)\n"
    )
    programs = [Program(str(seed), FORGE + forge.format(seed=seed), CHECK, "f", cpu_s=1.0, wall_s=0.3) for seed in range(40)]
    assert [result for result in sandbox.run(programs) if result.outcome is RunOutcome.SANDBOX_FAULT] == []


FED_BACK = {
    "too_long": ("def f(x): return range(10 ** 6) if x else 0\n", "candidate(list(candidate(1)))"),
    "too_deep": ("def f(x):\n    a = []\n    for _ in range(120): a = [a]\n    return a\n", "candidate(deeper(candidate(1)))"),
    "a_function": ("def deeper(x): pass\ndef f(x): return 1\n", "candidate(deeper)"),
    "an_exception": ("def f(x): raise ValueError\n", "candidate(caught(candidate))"),
}
"""What the check sends to its candidate is made of what the program has sent to the check."""
GIVEN = (
    "def deeper(a):\n    for _ in range(400): a = [a]\n    return a\n"
    "def caught(f):\n    try: f(1)\n    except ValueError as error: return error\n"
)


@pytest.mark.parametrize("name", FED_BACK)
def test_answer_that_the_check_cannot_send_back_counts_against_the_program(sandbox: ProcessSandbox, name: str) -> None:
    code, call = FED_BACK[name]
    result = run(sandbox, code, f"def check(candidate):\n    {call}\n", given="" if name == "a_function" else GIVEN)
    assert result.outcome is RunOutcome.FAILED, result


def test_program_that_dies_under_a_check_that_then_hangs_is_timed_out(sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 1.5)
    monkeypatch.setattr(process, "_ANSWER_S", 4.0)
    code = "import os\ndef f(x):\n    if x: os._exit(0)\n    return range(10 ** 15)\n"
    check = "def check(candidate):\n    much = candidate(0)\n    try:\n        candidate(1)\n    finally:\n        sum(much)\n"
    result = run(sandbox, code, check, wall_s=0.5)
    assert result.outcome is RunOutcome.TIMED_OUT, result


def test_check_that_suppresses_its_alarm_does_not_pass(sandbox: ProcessSandbox) -> None:
    check = "def check(candidate):\n    try:\n        for _ in candidate(0): pass\n    except BaseException:\n        pass\n"
    result = run(sandbox, "def f(x):\n    return range(10 ** 15)\n", check, wall_s=0.3)
    assert result.outcome is RunOutcome.TIMED_OUT, result


AHEAD = {
    "at_load": SAY + 'say(b\'["tuple", ["value", 4]]\\n\')\n' + SQUARE,
    "before_the_answer": SAY + 'def f(x):\n    say(b\'["tuple", ["value", 4]]\\n\')\n    return x * x\n',
    "after_the_answer": FORGE + "def forge(line): return line + line.replace(b' 4]]', b' 9]]')\n",
    "after_the_names": FORGE + 'def forge(line): return line + b\'["tuple", ["value", 4]]\\n\'\n',
}


@pytest.mark.parametrize("name", AHEAD)
def test_answer_that_precedes_its_question_ends_the_cell(sandbox: ProcessSandbox, name: str) -> None:
    result = run(sandbox, AHEAD[name])
    assert result.outcome is RunOutcome.FAILED
    assert "out of turn" in result.detail


def test_check_that_gives_no_data_is_a_fault_of_the_suite_before_the_program_has_answered(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, SQUARE, "def check(candidate):\n    candidate(print)\n")
    assert result.outcome is RunOutcome.SANDBOX_FAULT


def test_test_without_a_check_is_a_fault_of_the_suite(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, "def check(candidate): pass\n" + SQUARE, "assert True\n")
    assert result.outcome is RunOutcome.SANDBOX_FAULT


HELPER = "def code(x):\n    return x + 1\n\n"
PROMPTS = {
    "no_docstring": HELPER + "def f(x):\n",
    "no_newline": HELPER + "def f(x):",
    "open_docstring": HELPER + 'def f(x):\n    """Undo code.\n\nSee above.\n',
    "decorator": HELPER + "import functools\n@functools.cache\n",
    "missing_package": "import seatrial_has_no_such_package\n" + HELPER + "def f(x):\n",
    "missing_import": HELPER.replace("(x)", "(x: List[int]) -> Optional[int]") + "def f(x):\n",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_helper_of_the_suite_is_never_taken_from_the_program(sandbox: ProcessSandbox, name: str) -> None:
    check = "def check(candidate):\n    assert candidate(code(4)) == 4\n"
    cheat = run(sandbox, "def f(x):\n    return x\ndef code(x):\n    return x\n", check, given=PROMPTS[name])
    honest = run(sandbox, "def f(x):\n    return x - 1\n", check, given=PROMPTS[name])
    assert (cheat.outcome, honest.outcome) == (RunOutcome.FAILED, RunOutcome.PASSED), (cheat, honest)


def test_helper_of_the_suite_may_call_the_candidate_and_what_the_program_imports(sandbox: ProcessSandbox) -> None:
    given = "def twice(x):\n    return f(math.floor(f(x)))\n\ndef f(x):\n"
    code = "import math\n" + SQUARE
    result = run(sandbox, code, "def check(candidate):\n    assert twice(3) == 81\n", given=given)
    assert result.outcome is RunOutcome.PASSED, result
