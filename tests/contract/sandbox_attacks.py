"""Attacks on the sandbox, and what tries them. A program passes its check if, and only if, its attack succeeds.

Standard library only: it runs under any Python that the user `nobody` can start, as a script. argv: the level, a folder for scratch.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.programs import Program, RunOutcome
from evals.sandbox import ProcessSandbox

CHECK = "def check(candidate):\n    assert candidate(2) == 4, 'word-of-the-check'\n    assert candidate(3) == 9\n"
SQUARE = "def f(x):\n    return x * x\n"
LEVELS = {"all": (True, True), "no_namespaces": (False, True), "least": (False, False)}
"""Whether namespaces and Landlock may be used, by level."""

_TRY = "def f(x):\n    {attempt}\n    return x * x\n"
_RAW = (
    "import ctypes, os\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "arm = os.uname().machine == 'aarch64'\n"
    "def raw(number, *arguments):\n"
    "    if libc.syscall(number[arm], *arguments) < 0:\n"
    "        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n"
)
_MACHINE = (
    "import ctypes\n"
    "libc = ctypes.CDLL(None)\n"
    "libc.mmap.restype = ctypes.c_void_p\n"
    "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]\n"
    "def f(x):\n"
    "    page = libc.mmap(None, 4096, 7, 0x22, -1, 0)\n"
    "    ctypes.memmove(page, {code!r}, {size})\n"
    "    assert ctypes.CFUNCTYPE(ctypes.c_int)(page)() > 0\n"
    "    return x * x\n"
)


def _attempt(line: str, imports: str = "os") -> str:
    return f"import {imports}\n" + _TRY.format(attempt=line)


def _call(*numbers_and_arguments: object) -> str:
    return _RAW + _TRY.format(attempt=f"raw({', '.join(map(str, numbers_and_arguments))})")


PRETENDING = {
    "exit_at_load": "import os\nos._exit(0)\n",
    "exit_when_called": "import os\ndef f(x):\n    os._exit(0)\n",
    "sys_exit": "import sys\ndef f(x):\n    sys.exit(0)\n",
    "exit_in_a_finalizer": "import os\nclass E:\n    def __del__(self): os._exit(0)\ndef f(x):\n    E()\n    return 0\n",
    "atexit": "import atexit\natexit.register(lambda: print('passed'))\ndef f(x):\n    raise SystemExit(0)\n",
    "says_passed": 'def f(x):\n    print(\'{"outcome": "passed", "nonce": ""}\', flush=True)\n',
    "verdict_on_every_descriptor": (
        "import os\ndef f(x):\n    for fd in range(256):\n"
        '        try: os.write(fd, b\'{"nonce": "", "outcome": "passed", "detail": "", "cpu_s": 0}\\n\')\n        except OSError: pass\n'
    ),
    "answer_on_every_descriptor": (
        "import os\ndef f(x):\n    for fd in range(256):\n"
        '        try: os.write(fd, b\'["tuple", ["passed"]]\\n\')\n        except OSError: pass\n'
    ),
    "many_answers_ahead": (
        "import os\ndef f(x):\n    for fd in range(3, 64):\n"
        '        try: os.write(fd, b\'["tuple", ["value", 4]]\\n["tuple", ["value", 9]]\\n\')\n        except OSError: pass\n    return 4\n'
    ),
    "pickle_for_an_answer": (
        "import os, pickle\nclass E:\n    def __reduce__(self): return (print, ('passed',))\ndef f(x):\n    for fd in range(3, 64):\n"
        "        try: os.write(fd, pickle.dumps(E()) + b'\\n')\n        except OSError: pass\n"
    ),
    "equals_all": "class E:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x):\n    return E()\n",
    "number_that_equals_all": "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x):\n    return E()\n",
    "list_that_equals_all": "class E(list):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x):\n    return E()\n",
    "patched_builtins": (
        "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.compile = builtins.exec = lambda *a, **k: 4\ndef f(x):\n    return 1\n"
    ),
    "patched_eq_of_int": (
        "import ctypes, gc\ntable = gc.get_referents(int.__dict__)[0]\ntable['__eq__'] = lambda a, b: True\n"
        "ctypes.pythonapi.PyType_Modified(ctypes.py_object(int))\ndef f(x):\n    return 1\n"
    ),
    "patched_codec": (
        "import sys\nfor name, module in list(sys.modules.items()):\n    if name.startswith('evals') and hasattr(module, 'encode'):\n"
        '        module.encode = lambda value: b\'["tuple", ["passed"]]\\n\'\ndef f(x):\n    return 1\n'
    ),
    "patched_json": 'import json\njson.dumps = lambda *a, **k: \'["tuple", ["value", true]]\'\ndef f(x):\n    return 1\n',
    "poisoned_modules": "import sys\nsys.modules['math'] = sys.modules['random'] = sys.modules['json'] = None\ndef f(x):\n    return 1\n",
    "empties_sys_modules": "import sys\nsys.modules.clear()\ndef f(x):\n    return 0\n",
    "redefines_check": "def check(candidate):\n    return None\ndef f(x):\n    return 0\n",
    "claims_to_be_the_assertion": "class AssertionError(BaseException): pass\ndef f(x):\n    raise AssertionError\n",
    "traces_what_runs": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x):\n    return 0\n",
}
"""Fake passes: none of these computes a square."""

READING = {
    "frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        if 'word-of-the-check' in repr(frame.f_locals) + repr(frame.f_globals): return x * x\n        frame = frame.f_back\n"
    ),
    "nonce_in_frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        if 'nonce' in frame.f_locals or 'job' in frame.f_locals: return x * x\n        frame = frame.f_back\n"
    ),
    "collector": (
        "import gc\ndef f(x):\n    for thing in gc.get_objects():\n"
        "        if type(thing) is dict and any(type(v) is str and 'word-of-' + 'the-check' in v and 'assert' in v\n"
        "                                       for v in list(thing.values())): return x * x\n"
    ),
    "own_memory": _attempt("open('/proc/self/mem', 'rb').close()"),
    "memory_of_the_judge": _attempt("open(f'/proc/{os.getppid()}/mem', 'rb').close()"),
    "environment_of_the_judge": _attempt("open(f'/proc/{os.getppid()}/environ', 'rb').read()"),
    "environment_of_the_first_process": _attempt("open('/proc/1/environ', 'rb').read()"),
    "descriptors_of_the_judge": _attempt("os.listdir(f'/proc/{os.getppid()}/fd')"),
    "every_process": _attempt("assert [name for name in os.listdir('/proc') if name.isdigit()]"),
    "process_vm_readv": _call((310, 270), "os.getppid()", 0, 0, 0, 0, 0),
    "ptrace_attach": _call((101, 117), 16, "os.getppid()", 0, 0),
    "passwords": _attempt("open('/etc/passwd').read()"),
    "symlink_to_passwords": _attempt("os.symlink('/etc/passwd', '/tmp/seatrial-attack-link'); open('/tmp/seatrial-attack-link').read()"),
    "the_canary": _attempt("open({canary!r} + '/keep').read()"),
    "the_suite": _attempt("open({checkout!r} + '/core/ports/sandbox.py').read()"),
    "root_folder": _attempt("os.listdir('/root' if os.getuid() == 0 else '/home')"),
    "openat2": _call((437, 437), -100, "b'/etc/passwd'", "(ctypes.c_uint64 * 3)()", 24),
    "the_sample_beside": _attempt(
        "assert [n for n in range(os.getppid() - 30, os.getppid() + 30) if os.path.exists(f'/proc/{n}/mem') and "
        "open(f'/proc/{n}/mem', 'rb')]"
    ),
}
WRITING = {
    "file_where_it_stands": _attempt("open('written', 'w').close()"),
    "file_in_tmp": _attempt("open('/tmp/seatrial-attack', 'w').close()"),
    "file_in_shared_memory": _attempt("open('/dev/shm/seatrial-attack', 'w').close()"),
    "file_outside": _attempt("open({canary!r} + '/written', 'w').close()"),
    "file_by_creat": _RAW + _TRY.format(attempt="assert libc.creat(b{canary!r} + b'/written', 0o644) >= 0"),
    "append_to_the_canary": _attempt("open({canary!r} + '/keep', 'a').close()"),
    "truncate_the_canary": _attempt("os.truncate({canary!r} + '/keep', 0)"),
    "remove_the_canary": _attempt("os.unlink({canary!r} + '/keep')"),
    "rename_the_canary": _attempt("os.rename({canary!r} + '/keep', {canary!r} + '/kept')"),
    "link_the_canary": _attempt("os.link({canary!r} + '/keep', {canary!r} + '/kept')"),
    "symlink": _attempt("os.symlink('/etc/passwd', {canary!r} + '/link')"),
    "folder": _attempt("os.mkdir({canary!r} + '/folder')"),
    "change_of_mode": _attempt("os.chmod({canary!r} + '/keep', 0o777)"),
    "change_of_owner": _attempt("os.chown({canary!r} + '/keep', 65534, 65534)"),
    "named_pipe": _attempt("os.mkfifo({canary!r} + '/pipe')"),
    "file_in_memory": _attempt("os.memfd_create('x')"),
    "shared_memory": _call((29, 194), 0, 4096, 0o1600),
    "message_queue": _call((240, 180), "b'seatrial-attack'", "0o102", "0o600", 0),
    "change_of_folder": _attempt("os.chdir('/')"),
    "change_of_root": _attempt("os.chroot('.')"),
    "mount": _RAW + _TRY.format(attempt="assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0"),
}
SENDING = {
    "tcp": _attempt("socket.socket().bind(('127.0.0.1', 0))", "socket"),
    "udp": _attempt("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))", "socket"),
    "unix_socket": _attempt("socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)", "socket"),
    "abstract_unix_socket": _attempt("socket.socket(socket.AF_UNIX).bind('\\0seatrial-attack')", "socket"),
    "socket_pair": _attempt("socket.socketpair()", "socket"),
    "netlink": _attempt("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", "socket"),
    "name_service": _attempt("socket.gethostbyname('seatrial.invalid')", "socket"),
    "kill_the_judge": _attempt("os.kill(os.getppid(), 9)"),
    "kill_its_group": _attempt("os.killpg(0, 9)"),
    "kill_everything": _attempt("os.kill(-1, 9)"),
    "kill_the_first_process": _attempt("os.kill(1, 9)"),
    "kill_the_neighbours": _attempt("[os.kill(os.getppid() + n, 9) for n in range(-20, 20)]"),
    "stop_itself": _attempt("os.kill(os.getpid(), 19)"),
    "stop_the_judge": _attempt("os.kill(os.getppid(), 19)"),
    "signal_by_descriptor": _RAW + _TRY.format(attempt="os.pidfd_open(os.getppid())"),
    "signal_by_owner_of_a_pipe": (
        "import fcntl, os\ndef f(x):\n    done = 0\n    for fd in range(3, 32):\n"
        "        try:\n            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getppid())\n            done += 1\n        except OSError: pass\n"
        "    return x * x if done else None\n"
    ),
    "limits_of_the_judge": _call((302, 261), "os.getppid()", 0, "(ctypes.c_uint64 * 2)()", 0),
    "priority_of_the_judge": _attempt("os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)"),
    "processor_of_the_judge": _attempt("os.sched_setaffinity(os.getppid(), {0})"),
}
TAKING = {
    "fork": _attempt("os.fork()"),
    "fork_bomb": "import os\ndef f(x):\n    while True:\n        os.fork()\n",
    "fork_bomb_that_takes_no_no": "import os\ndef f(x):\n    while True:\n        try: os.fork()\n        except OSError: pass\n",
    "vfork": _RAW + _TRY.format(attempt="assert libc.vfork() >= 0"),
    "clone": _call((56, 220), 17, 0, 0, 0, 0),
    "clone3": _call((435, 435), "(ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)", 88),
    "threads_bomb": "import threading, time\ndef f(x):\n    while True:\n        threading.Thread(target=time.sleep, args=(9,)).start()\n",
    "exec": _attempt("os.execv('/bin/sleep', ['sleep', '60.0125'])"),
    "shell": _attempt("os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)"),
    "daemon": (
        "import os\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        os.execv('/bin/sleep', ['sleep', '60.0125'])\n    return x * x\n"
    ),
    "memory": "def f(x):\n    return len('a' * 10 ** 10)\n",
    "memory_by_and_by": "def f(x):\n    kept = []\n    while True:\n        kept.append(bytearray(2 ** 20))\n",
    "memory_that_is_shared": _RAW
    + (
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]\n"
        "libc.mmap.restype = ctypes.c_long\n"
        "def f(x):\n    return all(libc.mmap(None, 2 ** 28, 3, 0x21, -1, 0) > 0 for _ in range(64)) and x * x\n"
    ),
    "endless_loop": "def f(x):\n    while True: pass\n",
    "endless_loop_at_load": "while True: pass\n",
    "endless_loop_deaf_to_signals": (
        "import signal\nfor number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n"
    ),
    "endless_loop_in_c": "def f(x):\n    return sum(range(10 ** 14))\n",
    "sleep": "import time\ndef f(x):\n    time.sleep(60)\n",
    "more_cpu_time": ("import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\n    return x * x\n"),
    "more_memory": "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    return x * x\n",
    "deep_recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x):\n    return f(x)\n",
    "deep_recursion_in_c": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x):\n    a = []\n    for _ in range(10 ** 6): a = [a]\n    return repr(a)\n"
    ),
    "huge_number": "def f(x):\n    return 9 ** (9 ** 9)\n",
    "null_pointer": "import ctypes\ndef f(x):\n    return ctypes.string_at(0)\n",
    "abort": "import os\ndef f(x):\n    os.abort()\n",
    "endless_output": "import os\ndef f(x):\n    while True: os.write(1, b'passed' * 10000)\n",
    "endless_answer": "import os\ndef f(x):\n    while True:\n        for fd in range(3, 8):\n"
    "            try: os.write(fd, b'a' * 4096)\n            except OSError: pass\n",
    "closes_its_pipes": "import os\ndef f(x):\n    os.closerange(0, 256)\n    return x * x\n",
    "closes_its_pipes_and_goes_on": "import os\ndef f(x):\n    os.closerange(0, 256)\n    while True: pass\n",
    "swaps_its_pipes": (
        "import os\ndef f(x):\n    for fd in range(4, 24):\n        try: os.dup2(3, fd)\n        except OSError: pass\n    return 4\n"
    ),
}
ANSWERING = {
    "number_of_a_million_digits": "import sys\nsys.set_int_max_str_digits(0)\ndef f(x):\n    return 10 ** 10 ** 5\n",
    "giant_answer": "def f(x):\n    return 'a' * 10 ** 8\n",
    "giant_list": "def f(x):\n    return [0] * 10 ** 7\n",
    "giant_range": "def f(x):\n    return range(10 ** 12)\n",
    "giant_number": "def f(x):\n    return 1 << 10 ** 7\n",
    "endless_generator": "import itertools\ndef f(x):\n    return itertools.count()\n",
    "endless_list": "class E(list):\n    def __iter__(self):\n        while True: yield 1\ndef f(x):\n    return E([1])\n",
    "list_in_itself": "def f(x):\n    a = []\n    a.append(a)\n    return a\n",
    "deep_answer": "def f(x):\n    a = []\n    for _ in range(10 ** 5):\n        a = [a]\n    return a\n",
    "deep_line": (
        "import os\ndef f(x):\n    for fd in range(3, 8):\n        try: os.write(fd, b'[' * 60000 + b'\\n')\n        except OSError: pass\n"
    ),
    "colliding_keys": (
        "def f(x):\n    p = 2 ** 61 - 1\n    a = {}\n"
        "    return ['dict'] and [n * p for n in range(40000)] and {str(n): n * p for n in range(9)}\n"
    ),
    "giant_complaint": "def f(x):\n    raise ValueError('a' * 10 ** 8)\n",
    "complaint_that_never_ends": "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef f(x):\n    raise E\n",
    "lone_surrogates": "def f(x):\n    raise ValueError('\\ud800' * 600)\n",
}
ESCAPING = {
    "namespaces": _call((272, 97), "0x10000000"),
    "setns": _call((308, 268), 0, 0),
    "bpf": _call((321, 280), 0, 0, 0),
    "perf": _call((298, 241), "(ctypes.c_char * 128)()", 0, -1, -1, 0),
    "io_uring": _call((425, 425), 8, "(ctypes.c_char * 120)()"),
    "userfaultfd": _call((323, 282), 1),
    "keyring": _call((248, 217), "b'user'", "b'seatrial'", "b'x'", 1, -4),
    "keyctl": _call((250, 219), 0, -4, 1),
    "parent_death_signal": _call((157, 167), 1, 0, 0, 0, 0),
    "make_memory_readable": _call((157, 167), 4, 1, 0, 0, 0),
    "a_second_filter": _call((317, 277), 1, 0, 0),
    "personality": _call((135, 92), "0x0040000"),
    "become_root": _attempt("os.setresuid(0, 0, 0)"),
    "kexec": _call((246, 104), 0, 0, 0, 0),
    "modules": _call((175, 105), 0, 0, 0),
    "terminal": _attempt("assert [fcntl.ioctl(fd, 0x5412, b'x') for fd in range(3)]", "fcntl"),
    "pipes_of_its_own": _attempt("os.pipe()"),
    "calls_of_32_bits": _MACHINE.format(code=b"\xb8\x14\x00\x00\x00\xcd\x80\xc3", size=8),
    "calls_of_x32": _MACHINE.format(code=b"\xb8\x27\x00\x00\x40\x0f\x05\xc3", size=8),
}
_OUTSIDE = (Path("/tmp/seatrial-attack"), Path("/dev/shm/seatrial-attack"), Path("/tmp/seatrial-attack-link"))
"""What attacks would leave where other tests may leave things too."""
ATTACKS = {**PRETENDING, **READING, **WRITING, **SENDING, **TAKING, **ANSWERING, **ESCAPING}


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of an attack, and what it left: files and processes by name, and whether the sandbox still works as before."""

    outcome: str
    detail: str
    isolation: str
    left: list[str]
    healthy: bool
    same_zygote: bool


def code_of(name: str, canary: Path) -> str:
    """Return the program of an attack on `canary` and on this checkout."""
    checkout = Path(__file__).resolve().parents[2]
    return ATTACKS[name].replace("{canary!r}", repr(str(canary))).replace("{checkout!r}", repr(str(checkout)))


def plant(folder: Path) -> Path:
    """Make the canary: a folder that anyone may write to, with the file `keep`."""
    canary = folder / "canary"
    canary.mkdir()
    canary.chmod(0o777)
    (canary / "keep").write_text("keep", encoding="ascii")
    (canary / "keep").chmod(0o666)
    return canary


def attempt(sandbox: ProcessSandbox, name: str, canary: Path) -> Tried:
    """Try one attack."""
    code = code_of(name, canary)
    before, zygote = _state(sandbox, canary), sandbox._zygote
    (result,) = sandbox.run([Program(name, code, CHECK, "f", cpu_s=0.4, wall_s=2.0, memory_bytes=256 * 1024**2)])
    healthy = sandbox.run([Program("healthy", SQUARE, CHECK, "f")])[0].outcome is RunOutcome.PASSED
    return Tried(str(result.outcome), result.detail, result.isolation, _left(sandbox, canary, before), healthy, sandbox._zygote is zygote)


def attempt_all(level: str, folder: Path) -> dict[str, Tried]:
    """Try every attack on one sandbox."""
    namespaces, landlock = LEVELS[level]
    canary = plant(folder)
    sandbox = ProcessSandbox(1, folder / "scratch", namespaces=namespaces, landlock=landlock)
    sandbox.isolation()
    try:
        return {name: attempt(sandbox, name, canary) for name in ATTACKS}
    finally:
        sandbox.close()


def _left(sandbox: ProcessSandbox, canary: Path, before: set[str]) -> list[str]:
    """Return what is there that was not before. The judge itself, which is ours, may take a moment to end."""
    until = time.monotonic() + 5
    while (left := sorted(_state(sandbox, canary) ^ before)) and time.monotonic() < until:
        threading.Event().wait(0.005)
    return left


def _state(sandbox: ProcessSandbox, canary: Path) -> set[str]:
    files = {str(path) for path in (*canary.iterdir(), *_OUTSIDE) if os.path.lexists(path)}
    keep = canary / "keep"
    content = {f"keep {keep.read_text(encoding='ascii')} {keep.stat().st_mode:o} {keep.stat().st_uid}"} if keep.exists() else set()
    processes = {f"process {number}" for number in range(len(_descendants(os.getpid())))}  # another judge may stand for one that is ended
    return files | content | processes | {str(path) for path in sandbox._scratch.iterdir()}


def _descendants(root: int) -> set[int]:
    """Return every process below `root`, and every stray `sleep 60.0125`, whoever its parent is."""
    parents: dict[int, int] = {}
    stray: set[int] = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (folder / "cmdline").read_bytes() == b"sleep\x0060.0125\x00":
                    stray.add(int(folder.name))
            except OSError:
                continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return (found | stray) - {root}


if __name__ == "__main__":
    tried = attempt_all(sys.argv[1], Path(sys.argv[2]))
    json.dump({name: asdict(one) for name, one in tried.items()}, sys.stdout)
