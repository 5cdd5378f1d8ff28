"""Two users of one machine, each with a stack: both serve, neither writes outside its home, neither reads the other's."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from seatrial.types import Submission
from tests.e2e.harness import FAKE_ENGINE, MODELS, QUICK, ROOT, SEATRIAL, Stack
from tests.equipment.other_user import USER, as_other_user, folder_of_other_user, needed

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.release,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user"),
]
DEEP = "a home with spaces, ümlauts and a name so long that no unix socket below it could be bound by its path/" + "d" * 60


@pytest.fixture(scope="module")
def shared_tmp() -> Iterator[Path]:
    """The machine's temporary folder, as both users see it."""
    with folder_of_other_user() as folder:
        shared = folder / "tmp"
        shared.mkdir()
        shared.chmod(0o1777)
        yield shared


@pytest.fixture(scope="module")
def stacks(shared_tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stack]]:
    """Both stacks, started at the same moment, so that they choose the same ports."""
    who = pwd.getpwnam(USER)
    theirs = shared_tmp.parent / DEEP
    theirs.mkdir(parents=True)
    for folder in (theirs, *theirs.parents):
        if shared_tmp.parent in folder.parents:
            os.chown(folder, who.pw_uid, who.pw_gid)
    environ = {**FAKE_ENGINE, **QUICK, "TMPDIR": str(shared_tmp)}
    login = {"HOME": str(shared_tmp.parent), "USER": USER, "PATH": os.environ["PATH"], "SEATRIAL_HOME": str(theirs), **environ}
    mine = tmp_path_factory.mktemp("home")
    both = {
        "root": Stack(mine, environ),
        USER: Stack(theirs, environ, before=as_other_user(needed(ROOT), login)),
    }
    with ExitStack() as parts:
        for stack in both.values():
            parts.enter_context(stack.hub)
            parts.callback(stack.down)
        with ThreadPoolExecutor() as pool:
            for start in [pool.submit(stack.up) for stack in both.values()]:
                start.result()
        yield both


@pytest.fixture(scope="module")
def ends(stacks: dict[str, Stack]) -> dict[str, Submission]:
    """Each user's model, submitted at the same time."""
    begun = {user: stack.submit(str(MODELS / "steady"), "chat") for user, stack in stacks.items()}
    return {user: stacks[user].finish(submission.id, limit_s=600) for user, submission in begun.items()}


@pytest.mark.parametrize("user", ["root", USER])
def test_each_user_serves_a_model(stacks: dict[str, Stack], ends: dict[str, Submission], user: str):
    assert ends[user].state == "serving", (ends[user].message, stacks[user].story())
    answered = stacks[user].cli("chat", "chat", "hello")
    assert (answered.returncode, bool(answered.stdout.strip())) == (0, True), answered.stderr


def test_a_client_command_reaches_a_running_stack_by_its_home(stacks: dict[str, Stack], ends: dict[str, Submission]):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SEATRIAL_")}
    asked = [str(SEATRIAL), "--home", str(stacks["root"].home), "status", ends["root"].id, "--json"]
    answered = subprocess.run(asked, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (answered.returncode, ends["root"].id in answered.stdout) == (0, True), answered.stderr


def test_every_process_runs_as_its_user(stacks: dict[str, Stack], ends: dict[str, Submission]):
    assert ends
    owners = {user: {Path(f"/proc/{pid}").stat().st_uid for pid in stack.services().values()} for user, stack in stacks.items()}
    assert owners == {"root": {0}, USER: {pwd.getpwnam(USER).pw_uid}}


def test_nothing_is_left_in_the_shared_temporary_folder(ends: dict[str, Submission], shared_tmp: Path):
    assert ends
    assert sorted(path.name for path in shared_tmp.iterdir()) == []


@pytest.mark.parametrize("user", ["root", USER])
def test_nobody_but_the_owner_can_read_a_home(stacks: dict[str, Stack], ends: dict[str, Submission], user: str):
    assert ends
    home = stacks[user].home
    written = [path for path in home.rglob("*") if path.name != "up.log" and not path.is_symlink()]
    assert [str(path) for path in written if path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)] == []
    assert len(written) > 30, "the stack wrote its files somewhere else"


def test_another_users_stack_cannot_be_stopped_or_used_and_the_message_says_why(stacks: dict[str, Stack], ends: dict[str, Submission]):
    assert ends
    other = stacks["root"].home
    other.chmod(0o700)
    for command in (["down"], ["doctor"], ["status"], ["up"]):
        done = stacks[USER].cli("--home", str(other), *command)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode != 0, command
        assert "ermission denied" in done.stdout + done.stderr or "not writable" in done.stdout, (command, done.stdout, done.stderr)
    assert stacks["root"].cli("status", ends["root"].id).returncode == 0
