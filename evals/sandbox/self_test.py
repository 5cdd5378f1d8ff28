"""The self-test of a sandbox, before it judges anything: a right program passes, an early exit fails, and a cell reaches nothing."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import Fault
from core.programs import Program, RunOutcome, RunResult

_HONEST = Program("self-test: right answers", "def f(x):\n    return x * x\n", "def check(f):\n    assert f(3) == 9\n", "f")
_PRETENDER = Program("self-test: an exit does not pass", "import os\ndef f(x):\n    os._exit(0)\n", "def check(f):\n    f(3)\n", "f")
_PRISONER = Program(
    "self-test: the cell is closed",
    """
import ctypes, os, signal, socket
def attempts():
    libc = ctypes.CDLL(None, use_errno=True)
    def raw(call, *arguments):
        if getattr(libc, call)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), call)
    yield "read /etc/passwd", lambda: open("/etc/passwd").close()
    yield "write a file", lambda: os.open("written", os.O_WRONLY | os.O_CREAT)
    yield "write to /tmp", lambda: os.open("/tmp/written", os.O_WRONLY | os.O_CREAT)
    yield "fork", os.fork
    yield "exec", lambda: os.execv("/bin/true", ["true"])
    yield "a socket", lambda: socket.socket()
    yield "a unix socket", lambda: socket.socket(socket.AF_UNIX)
    yield "kill its parent", lambda: os.kill(os.getppid(), 0)
    yield "clear the parent-death signal", lambda: raw("prctl", 1, 0, 0, 0, 0)
    yield "trace", lambda: raw("ptrace", 0, 0, 0, 0)
    yield "unshare", lambda: raw("unshare", 0x10000000)
def f(x):
    reached = []
    for name, attempt in attempts():
        try:
            attempt()
        except OSError:
            continue
        reached.append(name)
    return reached
""",
    "def check(f):\n    reached = f(0)\n    assert reached == [], 'the cell can ' + ', '.join(map(str, reached))\n",
    "f",
)


def run_self_test(run: Callable[[Program], RunResult]) -> None:
    """Run the programs of the self-test with `run`. Raises Fault when one has another outcome than expected."""
    for program, expected in ((_HONEST, RunOutcome.PASSED), (_PRETENDER, RunOutcome.FAILED), (_PRISONER, RunOutcome.PASSED)):
        result = run(program)
        if result.outcome is not expected:
            raise Fault(
                f"the sandbox does not hold here ({program.id}): {result.outcome}, {result.detail}",
                hint="docs/sandbox.md lists the requirements of the machine; nothing is judged until the self-test passes",
            )
