"""The Sandbox port: whatever a program does, it is judged by its values only, and nothing of it outlives `run`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core.programs import Program, RunOutcome, RunResult
from evals.sandbox import ProcessSandbox, process, zygote_client
from evals.suite_loader import load_suite

ROOT = Path(__file__).parents[2]
CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"
SQUARE = "def f(x):\n    return x * x\n"


LEVELS: dict[str, tuple[dict[str, bool], set[str]]] = {
    "all": ({}, {"seccomp", "landlock", "namespaces"}),
    "no_namespaces": ({"namespaces": False}, {"seccomp", "landlock"}),
    "least": ({"namespaces": False, "landlock": False}, {"seccomp", "rlimits"}),
}


@pytest.fixture(params=LEVELS, scope="module")
def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessSandbox]:
    """One sandbox per level for all tests: what one test does must not touch the next."""
    means, level = LEVELS[request.param]
    scratch = tmp_path_factory.mktemp("sandbox") / "scratch"
    sandbox = ProcessSandbox(2, scratch, namespaces=means.get("namespaces", True), landlock=means.get("landlock", True))
    if set(sandbox.isolation().split("+")) != level:
        pytest.skip(f"THIS MACHINE REACHES {sandbox.isolation()} ONLY: the sandbox is not tested with {'+'.join(level)}")
    yield sandbox
    assert list(scratch.iterdir()) == [], "a cell's folder is left"
    sandbox.close()


def run(sandbox: ProcessSandbox, code: str, check: str = CHECK, wall_s: float = 8.0, cpu_s: float = 3.0) -> RunResult:
    (result,) = sandbox.run([Program("p", code, check, "f", cpu_s=cpu_s, wall_s=wall_s)])
    return result


def test_right_program_passes(sandbox: ProcessSandbox) -> None:
    assert run(sandbox, SQUARE).outcome is RunOutcome.PASSED


def test_wrong_program_fails_and_the_detail_is_the_failing_line(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, "def f(x):\n    return x + 2\n")
    assert result.outcome is RunOutcome.FAILED
    assert "assert candidate(3) == 9" in result.detail


def test_results_come_in_the_order_of_the_programs_and_do_not_touch_one_another(sandbox: ProcessSandbox) -> None:
    codes = [SQUARE, "import os\nos._exit(0)\n", SQUARE, "def f(x): raise KeyError(x)\n", SQUARE]
    results = sandbox.run([Program(str(number), code, CHECK, "f") for number, code in enumerate(codes)])
    assert [result.id for result in results] == ["0", "1", "2", "3", "4"]
    assert [result.outcome is RunOutcome.PASSED for result in results] == [True, False, True, False, True]


PRETENDERS = {
    "exit_at_load": "import os\nos._exit(0)\n",
    "exit_when_called": "import os\ndef f(x):\n    os._exit(0)\n",
    "sys_exit": "import sys\ndef f(x):\n    sys.exit(0)\n",
    "says_passed": 'def f(x):\n    print(\'{"outcome": "passed", "nonce": ""}\', flush=True)\n',
    "writes_everywhere": (
        "import os\ndef f(x):\n    for fd in range(64):\n"
        '        try: os.write(fd, b\'["tuple", ["passed"]]\\n\')\n        except OSError: pass\n'
    ),
    "equals_all": "class E:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x):\n    return E()\n",
    "int_that_equals_all": "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x):\n    return E()\n",
    "patched_builtins": (
        "import builtins\nbuiltins.AssertionError = ValueError\n"
        "builtins.compile = builtins.exec = lambda *a, **k: 4\ndef f(x):\n    return 1\n"
    ),
    "redefines_check": "def check(candidate):\n    return None\ndef f(x):\n    return 0\n",
    "looks_at_its_callers": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals['outcome'] = 'passed'\n        frame = frame.f_back\n"
    ),
    "kills_its_group": "import os, signal\ndef f(x):\n    os.killpg(0, signal.SIGKILL)\n",
    "kills_its_parent": "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n",
    "memory_bomb": "def f(x):\n    return len('a' * 10 ** 10)\n",
    "memory_by_and_by": "def f(x):\n    kept = []\n    while True:\n        kept.append(bytearray(2 ** 20))\n",
    "answer_flood": "def f(x):\n    return 'a' * 10 ** 8\n",
    "output_flood": "def f(x):\n    for _ in range(1000):\n        print('passed' * 10000)\n",
    "deep_answer": "def f(x):\n    a = []\n    for _ in range(10 ** 5):\n        a = [a]\n    return a\n",
    "fork_bomb": "import os\ndef f(x):\n    while True:\n        os.fork()\n",
    "threads": "import threading\ndef f(x):\n    threading.Thread(target=print).start()\n    return x * x\n",
    "syntax": "def f(x:\n",
    "undefined": "def g(x):\n    return x * x\n",
    "daemon": (
        "import os\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        os.execv('/bin/sleep', ['sleep', '60'])\n    return x * x\n"
    ),
    "empties_sys_modules": "import sys\nsys.modules.clear()\ndef f(x):\n    return 0\n",
    "huge_range": "def f(x):\n    return range(10 ** 12)\n",
    "shell": "import subprocess\ndef f(x):\n    return subprocess.run(['/bin/true']).returncode\n",
}


@pytest.mark.parametrize("name", PRETENDERS)
def test_nothing_but_right_values_passes(sandbox: ProcessSandbox, name: str) -> None:
    result = run(sandbox, PRETENDERS[name], cpu_s=2.0)
    assert result.outcome in {RunOutcome.FAILED, RunOutcome.TIMED_OUT}, result
    assert len(result.detail) <= 500


def test_check_that_catches_everything_does_not_turn_an_exit_into_a_pass(sandbox: ProcessSandbox) -> None:
    check = "def check(candidate):\n    try:\n        candidate(1)\n    except BaseException:\n        pass\n"
    assert run(sandbox, "import os\ndef f(x):\n    os._exit(0)\n", check).outcome is RunOutcome.FAILED
    assert run(sandbox, "def f(x):\n    raise ValueError\n", check).outcome is RunOutcome.PASSED


def test_endless_loop_is_timed_out_by_its_cpu_limit(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, "def f(x):\n    while True: pass\n", cpu_s=1.0, wall_s=20.0)
    assert result.outcome is RunOutcome.TIMED_OUT
    assert result.seconds < 15.0


@pytest.mark.parametrize("code", ["import time\ndef f(x):\n    time.sleep(60)\n", "import time\ntime.sleep(60)\n"])
def test_sleeper_is_timed_out_by_the_wall(sandbox: ProcessSandbox, code: str) -> None:
    result = run(sandbox, code, wall_s=0.5)
    assert result.outcome is RunOutcome.TIMED_OUT
    assert result.seconds < 10.0


def test_check_that_never_ends_is_timed_out(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, SQUARE, "def check(candidate):\n    while True: pass\n", wall_s=0.5)
    assert result.outcome is RunOutcome.TIMED_OUT
    assert result.seconds < 10.0


STAYS = {"assert candidate(2) == 4": True, "assert candidate(2) == 5": True, "much = bytearray(10 ** 8)": False, "while True: pass": False}


@pytest.mark.parametrize(("body", "kept"), STAYS.items())
def test_judge_that_was_stalled_or_grew_judges_no_more(sandbox: ProcessSandbox, body: str, *, kept: bool) -> None:
    run(sandbox, SQUARE, CHECK)
    zygote = sandbox._zygote
    assert zygote is not None
    asked = zygote._idle[-1]
    run(sandbox, SQUARE, f"def check(candidate):\n    {body}\n", wall_s=0.5)
    assert (asked in zygote._idle) is kept
    assert run(sandbox, SQUARE).outcome is RunOutcome.PASSED


def test_broken_check_is_a_fault_of_the_sandbox_not_of_the_program(sandbox: ProcessSandbox) -> None:
    assert run(sandbox, SQUARE, "def check(candidate:\n").outcome is RunOutcome.SANDBOX_FAULT


@pytest.mark.parametrize("place", ["", "/tmp/", "/dev/shm/", "outside"])
def test_program_writes_no_file(sandbox: ProcessSandbox, tmp_path: Path, place: str) -> None:
    path = f"{place}seatrial-{os.getpid()}" if place != "outside" else str(tmp_path / "outside")
    result = run(sandbox, f"def f(x):\n    open({path!r}, 'w').write('x')\n    return x * x\n")
    assert result.outcome is RunOutcome.FAILED
    assert "Error" in result.detail
    assert not Path(path).exists()


def test_program_sees_no_environment_and_no_arguments(sandbox: ProcessSandbox) -> None:
    code = "import os\ndef f(x):\n    return [k for k in os.environ if not k.startswith(('LC_', 'PYTHON'))]\n"
    check = "def check(candidate):\n    assert candidate(0) == [], candidate(0)\n"
    result = run(sandbox, code, check)
    assert result.outcome is RunOutcome.PASSED, result.detail


def test_cell_has_no_network(sandbox: ProcessSandbox) -> None:
    code = "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', 22), 1)\n"
    assert "Error" in run(sandbox, code).detail


def test_canonical_solutions_of_our_suite_pass(tmp_path: Path) -> None:
    programs = [Program(p.task_id, p.prompt + p.canonical_solution, p.test, p.entry_point) for p in load_suite("harbour").problems]
    results = ProcessSandbox(2, tmp_path).run(programs)
    assert [result for result in results if result.outcome is not RunOutcome.PASSED] == []


def test_check_that_spreads_out_an_answer_breaks_the_judges_limit_and_not_the_machine(sandbox: ProcessSandbox) -> None:
    check = "def check(candidate):\n    assert list(candidate(1)) == [1]\n"
    result = run(sandbox, "def f(x):\n    return range(10 ** 8)\n", check)
    assert result.outcome is RunOutcome.FAILED
    assert "MemoryError" in result.detail


SURVIVOR = (
    "import ctypes\n"
    "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"  # it shall not be killed with its parent
    "def f(x):\n"
    "    return range(10**15)\n"
)
STALLED = "def check(candidate):\n    assert sum(candidate(1)) == 1\n"
"""The program answers with what keeps this check in C code, deaf to its alarm, and has no parent-death signal."""


def test_program_that_stalls_the_check_and_clears_its_death_signal_is_gone_too(
    sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 1.5)
    result = run(sandbox, SURVIVOR, STALLED, wall_s=0.5)
    assert result.outcome is RunOutcome.TIMED_OUT
    await_that(lambda: processes_of(sandbox) == at_rest(sandbox), "judge and cell are gone")


def test_no_process_outlives_the_run(sandbox: ProcessSandbox) -> None:
    run(sandbox, "import time\ndef f(x):\n    time.sleep(60)\n", wall_s=0.3)
    await_that(lambda: processes_of(sandbox) == at_rest(sandbox), "judge and cell are gone")


def processes_of(sandbox: ProcessSandbox) -> int:
    return len(processes_with(str(sandbox._scratch)))


def at_rest(sandbox: ProcessSandbox) -> int:
    """Return how many stay: the zygote, the process that stands outside its namespaces, the judges that wait for jobs."""
    zygotes = 2 if "namespaces" in sandbox.isolation() else 1
    return zygotes + (len(sandbox._zygote._idle) if sandbox._zygote else 0)


def test_result_says_how_much_cpu_time_was_used_and_how_the_program_was_isolated(sandbox: ProcessSandbox) -> None:
    busy = "import time\ndef f(x):\n    until = time.process_time() + 0.15\n    while time.process_time() < until: pass\n    return x * x\n"
    result = run(sandbox, busy)
    assert result.outcome is RunOutcome.PASSED
    assert 0.3 <= result.cpu_s <= 2.0, "two calls of 0.15 s"
    assert result.isolation == sandbox.isolation()


def test_time_asleep_is_no_cpu_time(sandbox: ProcessSandbox) -> None:
    nap = "import time\ndef f(x):\n    time.sleep(0.2)\n    return x * x\n"
    result = run(sandbox, nap, cpu_s=0.15)
    assert result.outcome is RunOutcome.PASSED, result.detail


def test_limit_of_a_fraction_of_a_second_of_cpu_time_is_kept(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, "def f(x):\n    while True: pass\n", cpu_s=0.2, wall_s=20.0)
    assert result.outcome is RunOutcome.TIMED_OUT
    assert "CPU time of 0.2 s" in result.detail
    assert 0.2 <= result.cpu_s < 1.0


@pytest.mark.parametrize("whole", [False, True])
def test_killed_zygote_is_replaced(tmp_path: Path, *, whole: bool) -> None:
    sandbox = ProcessSandbox(1, tmp_path)
    sandbox.isolation()
    for pid in processes_with(str(tmp_path))[: None if whole else 1]:
        with suppress(ProcessLookupError):  # the death of one may be that of the next
            os.kill(int(pid), signal.SIGKILL)
    assert run(sandbox, SQUARE).outcome is RunOutcome.PASSED
    sandbox.close()
    await_that(lambda: processes_with(str(tmp_path)) == [], "nothing of either zygote is left")


def test_zygote_that_is_dead_but_not_yet_gone_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_client, "_END_S", 0.1)
    sandbox = ProcessSandbox(1, tmp_path)
    if "namespaces" not in sandbox.isolation() or sandbox._zygote is None:
        pytest.skip("THIS MACHINE PERMITS NO NAMESPACES: no process stands outside of them")
    outside = sandbox._zygote.pid
    os.kill(outside, signal.SIGSTOP)
    for pid in processes_with(str(tmp_path)):
        if int(pid) != outside:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    assert run(sandbox, SQUARE).outcome is RunOutcome.PASSED
    sandbox.close()
    await_that(lambda: processes_with(str(tmp_path)) == [], "nothing of either zygote is left")


def test_zygote_that_dies_at_work_costs_no_verdict(tmp_path: Path) -> None:
    sandbox = ProcessSandbox(1, tmp_path)
    sandbox.isolation()
    results: list[RunResult] = []
    nap = "import time\ndef f(x):\n    time.sleep(1)\n    return x * x\n"
    asking = threading.Thread(target=lambda: results.append(run(sandbox, nap)))
    asking.start()
    await_that(lambda: processes_of(sandbox) >= 4, "judge and cell stand, beside the zygote and the one outside")
    os.kill(int(processes_with(str(tmp_path))[0]), signal.SIGKILL)
    asking.join()
    assert results[0].outcome is RunOutcome.PASSED, results


OPEN_ZYGOTE = (
    "import runpy, sys\n"
    "sys.path.insert(0, {root!r})\n"
    "from evals.sandbox import seccomp\n"
    "seccomp.install = lambda code: None\n"
    "runpy.run_path({zygote!r}, run_name='__main__')\n"
)


def test_sandbox_that_does_not_hold_judges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "open.py"
    script.write_text(OPEN_ZYGOTE.format(root=str(ROOT), zygote=str(zygote_client._ZYGOTE)), encoding="utf-8")
    monkeypatch.setattr(zygote_client, "_ZYGOTE", script)
    result = run(ProcessSandbox(1, tmp_path / "scratch", namespaces=False), SQUARE)
    assert result.outcome is RunOutcome.SANDBOX_FAULT
    assert "the cell can" in result.detail


def test_zygote_that_cannot_start_is_a_fault_of_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_client, "_ZYGOTE", tmp_path / "missing.py")
    result = run(ProcessSandbox(1, tmp_path / "scratch"), SQUARE)
    assert result.outcome is RunOutcome.SANDBOX_FAULT
    assert "cannot start" in result.detail


def test_judge_that_dies_is_a_fault_of_the_sandbox(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, SQUARE, "import os\ndef check(candidate):\n    os._exit(3)\n")
    assert result.outcome is RunOutcome.SANDBOX_FAULT
    assert "ended with 3" in result.detail


@pytest.mark.parametrize("body", ["import socket; socket.socket()", "open('/tmp/seatrial-check', 'w')", "import os; os.fork()"])
def test_check_has_no_more_means_than_the_program(sandbox: ProcessSandbox, body: str) -> None:
    result = run(sandbox, SQUARE, f"def check(candidate):\n    {body}\n")
    assert result.outcome is RunOutcome.FAILED
    assert "PermissionError" in result.detail or "Read-only" in result.detail


def test_check_that_gives_what_is_no_data_is_a_fault_of_the_suite(sandbox: ProcessSandbox) -> None:
    result = run(sandbox, SQUARE, "def check(candidate):\n    candidate(print)\n")
    assert result.outcome is RunOutcome.SANDBOX_FAULT


def test_helper_of_the_prompt_cannot_be_replaced_by_the_program(sandbox: ProcessSandbox) -> None:
    prompt = 'def code(x):\n    return x + 1\n\ndef f(x):\n    """Undo code."""\n'
    check = "def check(candidate):\n    assert candidate(code(4)) == 4\n"
    cheat = prompt + "    return x\ndef code(x):\n    return x\n"
    (cheated,) = sandbox.run([Program("p", cheat, check, "f", given=prompt)])
    (honest,) = sandbox.run([Program("p", prompt + "    return x - 1\n", check, "f", given=prompt)])
    assert (cheated.outcome, honest.outcome) == (RunOutcome.FAILED, RunOutcome.PASSED)


def test_program_and_check_that_both_send_much_do_not_wait_for_each_other(sandbox: ProcessSandbox) -> None:
    code = "import sys\ndef f(x):\n    return x\n"
    check = "def check(candidate):\n    much = ['a' * 1000] * 2000\n    assert candidate(much) == much\n"
    assert run(sandbox, code, check).outcome is RunOutcome.PASSED


@pytest.mark.parametrize("namespaces", [True, False])
def test_killed_platform_leaves_no_process(tmp_path: Path, *, namespaces: bool) -> None:
    word = f"seatrial{os.getpid()}"
    script = (
        "from pathlib import Path\n"
        "from core.ports.sandbox import Program\n"
        "from evals.sandbox import ProcessSandbox\n"
        f"program = Program('p', {SURVIVOR!r}, {STALLED!r}, 'f', wall_s=60)\n"
        f"ProcessSandbox(1, Path({str(tmp_path)!r}) / {word!r}, namespaces={namespaces}).run([program])\n"
    )
    platform = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    whole = 5 if namespaces else 4  # platform, one that stands outside the namespaces, zygote, judge, cell
    await_that(lambda: len(processes_with(word)) == whole, "the cell stands")
    platform.kill()
    platform.wait()
    await_that(lambda: processes_with(word) == [], "judge and cell are gone with the platform")


def await_that(holds: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        threading.Event().wait(0.02)


def processes_with(word: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            if word in line:
                found.append(folder.name)
    return found


def test_values_travel_whole(sandbox: ProcessSandbox) -> None:
    check = (
        "def check(candidate):\n"
        "    for value in (None, True, 1, -2**70, 1.5, float('inf'), 'é\\n', b'\\x00', [1, [2]], (1, 2), {1, 2}, frozenset({3}),\n"
        "                  {'a': (1,), 2: None}, 1j, range(3)):\n"
        "        assert candidate(value) == value and type(candidate(value)) is type(value), value\n"
    )
    result = run(sandbox, "def f(x):\n    return x\n", check)
    assert result.outcome is RunOutcome.PASSED, result.detail


def test_check_may_use_the_programs_functions_and_modules(sandbox: ProcessSandbox) -> None:
    code = "import math\ndef twice(x):\n    return 2 * x\ndef f(x):\n    return x / 2\n"
    check = "def check(candidate):\n    assert candidate(twice(math.floor(3.5))) == 3\n"
    assert run(sandbox, code, check).outcome is RunOutcome.PASSED


def test_program_may_import_what_the_sandbox_itself_does_not_use(sandbox: ProcessSandbox) -> None:
    if "rlimits" in sandbox.isolation():
        pytest.skip("a cell opens no file at this level: it has the usual modules only")
    code = "import cmath, colorsys, xml.etree.ElementTree\ndef f(x):\n    return colorsys.rgb_to_hsv(x, x, x)[2] * cmath.sqrt(x * x).real\n"
    assert run(sandbox, code).outcome is RunOutcome.PASSED


def test_exceptions_of_the_candidate_reach_a_check_that_expects_them(sandbox: ProcessSandbox) -> None:
    check = "def check(candidate):\n    try:\n        candidate(0)\n    except ZeroDivisionError:\n        return\n    assert False\n"
    assert run(sandbox, "def f(x):\n    return 1 / x\n", check).outcome is RunOutcome.PASSED


def test_at_most_so_many_programs_run_at_once_however_many_ask(tmp_path: Path) -> None:
    sandbox = ProcessSandbox(1, tmp_path)
    nap = "import time\ndef f(x):\n    time.sleep(0.2)\n    return x * x\n"
    begin = time.monotonic()
    threads = [threading.Thread(target=run, args=(sandbox, nap)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin >= 3 * 2 * 0.2
