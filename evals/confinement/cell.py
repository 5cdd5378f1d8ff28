"""The inside of a cell: processes split off the judge before it knows anything of its job.

`live` prepares the cell and ends with the program; between them stands, where there are namespaces, the first process of the cell's own
(a program that is process 1 itself would be spared the signals of its limits).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from evals.confinement import linux
from evals.confinement.wire import NotData, decode, encode

_FILE_BYTES = 16 * 1024**2
_MAX_NAMES = 500
_SET_UP_FAILED = 200  # an exit status: the cell could not be made
_BY_SIGNAL = 128


def live(settings: Mapping[str, Any], inbox: int, outbox: int) -> NoReturn:
    """Be the cell. `inbox` brings the code and the calls, `outbox` takes the answers. Never returns."""
    try:
        linux.die_with_parent()
        linux.show_memory()
        os.setsid()
        witness = os.dup(2)  # held by those who stand behind: the platform reads its end when they and the program are gone
        _keep_only(inbox, outbox, witness)
        if _prepare(Path(settings["folder"]), namespaces=settings["namespaces"]):
            _stand_behind(inbox, outbox)
            linux.die_with_parent()
        _stand_behind(inbox, outbox)
        os.close(witness)
        library = os.open(Path(os.__file__).parent, os.O_PATH | os.O_DIRECTORY)
        linux.drop_privileges()
        linux.die_with_parent()  # a change of user clears it
        _find_library(library)
        linux.limit(settings["cpu_s"], settings["memory_bytes"], _FILE_BYTES)
    except OSError as error:
        os.write(outbox, encode(("fault", str(error.strerror))))
        os._exit(_SET_UP_FAILED)
    with os.fdopen(inbox, "rb") as calls, os.fdopen(outbox, "wb") as answers:
        _serve(calls, answers)
    os._exit(0)


def _prepare(folder: Path, *, namespaces: bool) -> bool:
    """Enter `folder`, as the root of namespaces of our own where that is permitted. Return whether it was."""
    if os.geteuid() == 0:
        os.chown(folder, linux.NOBODY, linux.NOBODY)
    os.chdir(folder)
    try:
        if namespaces:
            linux.own_namespaces()
    except OSError:
        return False  # not permitted here: process group, subreaper and limits have to do
    if namespaces:
        linux.own_root(folder, _shown(), _FILE_BYTES)
    return namespaces


def _find_library(library: int) -> None:
    """Go through the folder that was opened before, where nobody may not walk to Python's library (root's own, below /root)."""
    if os.access(os.__file__, os.R_OK):
        os.close(library)
        return
    linux.show_memory()  # else not even its own /proc/self/fd is its own
    here = f"/proc/self/fd/{library}"
    if not os.access(f"{here}/os.py", os.R_OK):
        raise PermissionError(1, f"the user of the cell may not read Python's library at {os.__file__}")
    sys.path[:] = [here, f"{here}/lib-dynload"]
    home = str(Path(os.__file__).parent)
    for module in sys.modules.values():  # packages that are loaded look for their parts where they were found
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(home, here) for path in module.__path__]


def _shown() -> list[Path]:
    """Return the folders that Python's own modules need: its library, and those of the system that they are linked to."""
    system = [path for path in map(Path, ("/usr/lib", "/lib", "/lib64", "/usr/lib64")) if path.is_dir()]
    library = Path(os.__file__).resolve().parent
    covered = any(library.is_relative_to(path) for path in system)
    return system if covered else [*system, library]


def _stand_behind(inbox: int, outbox: int) -> None:
    """Return in a child; stay behind without pipes until it ends, then end with its status.

    When our own parent ends first, the child is killed from here: a program can clear the parent-death signal of its own process.
    """
    child = os.fork()
    if child == 0:
        return

    def take_along(_signal: int, _frame: object) -> NoReturn:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has just ended by itself
        os._exit(_BY_SIGNAL + signal.SIGKILL)

    signal.signal(signal.SIGTERM, take_along)
    linux.die_with_parent(signal.SIGTERM)  # until here it was SIGKILL, and no program runs yet
    os.close(inbox)
    os.close(outbox)
    while True:
        pid, waited = os.waitpid(-1, 0)
        if pid == child:
            os._exit(_status(waited))


def _serve(calls: Any, answers: Any) -> None:
    """Load the code, tell its names, then answer call by call until the judge hangs up."""

    def say(answer: Any) -> None:
        answers.write(encode(answer))
        answers.flush()

    module = ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(decode(calls.readline()), "program.py", "exec"), module.__dict__)  # noqa: S102 - what a cell is for
        say(("loaded", _names(module)))
    except BaseException as error:  # noqa: BLE001 - generated code may raise anything; the judge is told
        say(("raised", type(error).__name__, _text(error)))
        return
    for line in calls:
        name, arguments, keywords = decode(line)
        try:
            say(("value", vars(module)[name](*arguments, **keywords)))
        except NotData as error:
            say(("raised", "TypeError", f"returned {error}"))
        except BaseException as error:  # noqa: BLE001 - as above
            say(("raised", type(error).__name__, _text(error)))


def _names(module: ModuleType) -> dict[str, str]:
    """Return the program's functions and modules by name: what a check may speak of besides its candidate."""
    found: dict[str, str] = {}
    for name, value in list(vars(module).items())[:_MAX_NAMES]:
        if isinstance(value, ModuleType):
            found[name] = f"module {value.__name__}"
        elif callable(value):
            found[name] = "function"
    return found


def _text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:  # noqa: BLE001 - its own __str__ may raise
        return ""


def _keep_only(*kept: int) -> None:
    """Close every inherited file; the standard streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, 1024)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _status(waited: int) -> int:
    code = os.waitstatus_to_exitcode(waited)
    return _BY_SIGNAL - code if code < 0 else code
