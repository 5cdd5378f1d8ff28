"""Whose a process is."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL

from serving.engines.processes import alive, identify, members, send

SLEEP = "import threading; threading.Event().wait(600)"


def test_a_recycled_pid_is_somebody_else() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert alive(me)
    assert not alive(replace(me, started=me.started + 1))
    assert not alive(replace(me, boot="another"))


def test_a_zombie_is_gone_and_signals_to_it_do_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", SLEEP])
    who = identify(child.pid)
    assert who is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(who)
    send(who, SIGKILL)
    child.wait()


def test_a_process_without_mark_or_session_is_known_by_the_log_it_writes(tmp_path: Path) -> None:
    with (tmp_path / "engine.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-c", SLEEP], stdout=log)
    assert [process.pid for process in members(tmp_path, None)] == [child.pid]
    child.kill()
    child.wait()
    assert members(tmp_path, None) == ()
