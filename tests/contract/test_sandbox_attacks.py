"""Every attack of the table fails, as root and as nobody, at every level of isolation, and leaves nothing behind."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.programs import RunOutcome
from tests.contract import sandbox_attacks
from tests.contract.sandbox_attacks import ATTACKS, LEVELS, code_of, plant

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
USERS = ["root", "nobody"] if os.geteuid() == 0 else ["this user"]
"""Where the tests are not root's, the sandbox is tried as whoever runs them."""
_LIMIT_S = 300
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_IS_NEW_ENOUGH = "import sys; raise SystemExit(sys.version_info < (3, 11))"


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that nobody may enter and write to: pytest's own is root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="seatrial-attacks-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def tried(open_folder: Path) -> Any:
    """Return what became of all attacks at (user, level). They are tried when first asked for, in a process of that user."""

    @functools.cache
    def all_of(user: str, level: str) -> dict[str, dict[str, Any]]:
        folder = open_folder / f"{user.replace(' ', '-')}-{level}"
        folder.mkdir()
        folder.chmod(0o777)
        python, checkout = (sys.executable, ROOT) if user != "nobody" else _for_nobody(open_folder)
        script = checkout / Path(sandbox_attacks.__file__).relative_to(ROOT)
        done = _as_user(user, [python, "-I", "-S", "-B", str(script), level, str(folder)])
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, dict[str, Any]] = json.loads(done.stdout)
        return found

    return all_of


def _as_user(user: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if user == "nobody" else {}
    return subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False, cwd="/", env={}, **who)


@functools.cache
def _for_nobody(folder: Path) -> tuple[str, Path]:
    """Return a Python that nobody may start, and a copy of our code that nobody may read: root's own may lie below /root."""
    checkout = folder / "checkout"
    for part in ("core", "evals", "tests/contract"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    subprocess.run(["chmod", "-R", "a+rX", str(checkout)], check=True)
    for python in (sys.executable, shutil.which("python3", path=_SYSTEM_PATH), _copied_python(folder)):
        if python and _nobody_can_start(python):
            return python, checkout
    pytest.fail("no Python of version 3.11 or later can be started by the user nobody (65534): install one outside of /root")


def _nobody_can_start(python: str) -> bool:
    try:
        return _as_user("nobody", [python, "-I", "-S", "-c", _IS_NEW_ENOUGH]).returncode == 0
    except PermissionError:
        return False


def _copied_python(folder: Path) -> str:
    """Copy this Python and its library: enough where it is linked statically, or looks for its library beside itself."""
    home, library = folder / "python", Path(sysconfig.get_path("stdlib"))
    if not home.exists():
        (home / "bin").mkdir(parents=True)
        shutil.copy(Path(sys.executable).resolve(), home / "bin" / "python3")
        for shared in (library.parent).glob("libpython3*.so*"):
            (home / "lib").mkdir(exist_ok=True)
            shutil.copy(shared, home / "lib" / shared.name)
        leave = shutil.ignore_patterns("__pycache__", "site-packages", "test", "idlelib", "tkinter", "ensurepip", "lib2to3", "config-*")
        shutil.copytree(library, home / "lib" / library.name, ignore=leave)
    return str(home / "bin" / "python3")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_fails_and_leaves_nothing_behind(tried: Any, name: str, user: str, level: str) -> None:
    one = tried(user, level)[name]
    assert one["outcome"] in {RunOutcome.FAILED, RunOutcome.TIMED_OUT}, one
    assert len(one["detail"]) <= 500
    assert one["left"] == []
    assert one["healthy"], "the sample after it does not pass"
    assert one["same_zygote"], "it has cost the sandbox its zygote"


@pytest.mark.parametrize(("level", "parts"), [("all", {"namespaces", "landlock"}), ("no_namespaces", {"landlock"}), ("least", {"rlimits"})])
@pytest.mark.parametrize("user", USERS)
def test_attacks_were_tried_at_the_level_that_is_meant(tried: Any, user: str, level: str, parts: set[str]) -> None:
    reached = {one["isolation"] for one in tried(user, level).values()}
    assert len(reached) == 1
    if set(reached.pop().split("+")) != {"seccomp"} | parts:
        pytest.skip(f"THIS MACHINE DOES NOT PERMIT {' AND '.join(sorted(parts))}: the attacks were tried with less")


SHARP = {
    *("passwords", "the_canary", "the_suite", "every_process", "own_memory", "file_outside", "file_by_creat", "append_to_the_canary"),
    *("truncate_the_canary", "rename_the_canary", "symlink", "folder", "change_of_mode", "named_pipe", "file_in_memory", "shared_memory"),
    *("change_of_folder", "tcp", "udp", "unix_socket", "abstract_unix_socket", "socket_pair", "netlink", "pipes_of_its_own", "shell"),
    *("memory_that_is_shared", "parent_death_signal", "priority_of_the_judge"),
}
"""Attacks that can be let loose outside a sandbox without harm."""


@pytest.mark.parametrize("name", sorted(SHARP))
def test_attack_succeeds_where_there_is_no_sandbox(tmp_path: Path, name: str) -> None:
    script = tmp_path / "attack.py"
    script.write_text(code_of(name, plant(tmp_path)) + "raise SystemExit(f(2) != 4)\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", "-S", str(script)], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_there_are_attacks_of_every_kind() -> None:
    assert len(ATTACKS) >= 25
    assert set(ATTACKS) >= SHARP
