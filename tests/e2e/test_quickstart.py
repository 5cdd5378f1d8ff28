"""The quick start and the README's "Use it", followed word by word as a newcomer does: as root, and as a user who is not root beside
a stack of root, with every core busy.

The commands are taken from the pages, so that a page that drifts from the program fails here. What a reader fills in comes from
`Newcomer.filled_in`; `SHORTER` makes long work short. Real Prefect and MLflow; real vLLM for root, the fake engine for the other user.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import FAKE_ENGINE, MODELS, QUICK, ROOT, Stack, perturb, within
from tests.equipment.hub_server import HubServer
from tests.equipment.other_user import USER, as_other_user, folder_of_other_user, needed

pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.release]
SHORTER = {"--suite humaneval -n 20": "--suite harbour -n 1"}
"""What is the same work in less time: 6,560 answers become 96."""
FOLLOWS = "seatrial feedback --follow"
_COMMAND_S = 600.0


def commands_of(page: Path, after: str = "") -> list[str]:
    """Return the indented commands of a page, from the heading `after` to the next one; without comments."""
    text = page.read_text(encoding="utf-8")
    if after:
        text = text.partition(f"\n{after}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^ {4}((?:seatrial|python|make|source|export) .*)$", text, re.MULTILINE)
    return [re.split(r"\s+#", line)[0].strip() for line in lines]


def programs_of(page: Path) -> list[str]:
    """Return the page's Python programs."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@dataclass
class Newcomer:
    """A user in a shell of their own, with a home directory of their own and nothing set that seatrial reads but the hub's address."""

    name: str
    home: Path
    environ: dict[str, str]
    filled_in: dict[str, str]
    before: tuple[str, ...] = ()
    up: subprocess.Popen[bytes] | None = None
    said: list[str] = field(default_factory=list)

    def fill_in(self, text: str) -> str:
        for blank, value in {**SHORTER, **self.filled_in}.items():
            text = text.replace(blank, value)
        return text

    def shell(self, command: str, stdin: str = "") -> str:
        """Run a command in a shell with the environment activated; it must succeed. Returns what it printed."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*self.before, "/bin/bash", "-c", f"source .venv/bin/activate && {self.fill_in(command)}"],
            **self._given(), input=stdin, capture_output=True, text=True, timeout=_COMMAND_S, check=False,
        )  # fmt: skip
        self.said.append(f"$ {command}\n{done.stdout}{done.stderr}")
        assert done.returncode == 0, "\n".join(self.said[-3:]) + self.logs()
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def program(self, code: str) -> str:
        """Run a Python program of the page."""
        return self.shell(f"python - <<'PROGRAM'\n{self.fill_in(code)}\nPROGRAM")

    def start(self, command: str) -> None:
        """Run `seatrial up` in a terminal of its own and wait for its last line."""
        output = self.home.parent / f"{self.name}-up.txt"
        with output.open("wb") as file:
            self.up = subprocess.Popen(
                [*self.before, "/bin/bash", "-c", f"source .venv/bin/activate && exec {command}"],
                **self._given(), stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        running = self.up
        within(_COMMAND_S, lambda: "next, in another terminal: " in output.read_text() or running.poll() is not None, "the stack is up")
        assert running.poll() is None, output.read_text()
        gateway = re.search(r"gateway at (http://[^\s,]+),", output.read_text())
        assert gateway is not None
        self.filled_in["http://127.0.0.1:8800"] = gateway[1]

    def follow(self, command: str, awaited: str) -> None:
        """Run a command that goes on for ever until it shows `awaited`, then interrupt it as Ctrl-C does."""
        follower = subprocess.Popen(
            [*self.before, "/bin/bash", "-c", f"source .venv/bin/activate && exec {command}"],
            **self._given(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        limit = threading.Timer(_COMMAND_S, follower.kill)
        limit.start()
        try:
            assert follower.stdout is not None
            assert any(awaited in line for line in follower.stdout), f"{command} ended without {awaited!r}"
        finally:
            limit.cancel()
            follower.send_signal(signal.SIGINT)
            follower.wait(30)

    def stop(self) -> None:
        if self.up is not None and self.up.poll() is None:
            self.up.send_signal(signal.SIGINT)
            self.up.wait(90)

    def logs(self) -> str:
        """The end of every log of the stack, for a failure's report."""
        ends = [f"== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:]) for log in self.home.rglob("logs/*.log")]
        return "\n".join(["", *ends])

    def _given(self) -> dict[str, Any]:
        return {"cwd": ROOT, "env": None if self.before else self.environ}


@contextmanager
def loaded_cores() -> Iterator[None]:
    """Keep every core busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _core in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def stack_of_root(home: Path) -> Iterator[None]:
    """Run a stack of another user beside."""
    stack = Stack(home, {**FAKE_ENGINE, **QUICK})
    with stack.hub:
        stack.up()
        try:
            yield
        finally:
            stack.down()


@pytest.fixture(scope="module", params=["root", USER])
def newcomer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Root, or another user with the checkout as it is: each with an empty home directory.

    The other user works beside a stack of root, while every core is busy.
    """
    other = request.param == USER
    if other and os.geteuid() != 0:
        pytest.skip("only root can start a process as another user; the first case is a user who is not root")
    hub = tmp_path_factory.mktemp("hub")
    shutil.copytree(MODELS / "steady", hub / "org" / "steady")
    with folder_of_other_user() as place, HubServer(hub) as server, ExitStack() as beside:
        if other:
            beside.enter_context(stack_of_root(tmp_path_factory.mktemp("stack-of-root")))
            beside.enter_context(loaded_cores())
        home = place / "home"
        mine, real = place / "my-model", place / "smollm2"
        shutil.copytree(MODELS / "steady", mine)
        perturb(mine, 3)
        home.mkdir()
        if other:
            for path in (home, mine, *mine.rglob("*")):
                shutil.chown(path, USER)
        environ = {
            "HOME": str(home), "USER": request.param, "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "COLUMNS": "160",
            "SEATRIAL_HUB_ENDPOINT": server.url, **QUICK, **(FAKE_ENGINE if other else {}),
        }  # fmt: skip
        if not other:  # the cache of who runs the tests, so that the package is not downloaded once more
            environ["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME", f"{os.environ['HOME']}/.cache")
        filled_in = {"ORG/MODEL": "org/steady", "./my-model": str(mine), "./smollm2": str(real)}
        made = Newcomer(request.param, home, environ, filled_in, as_other_user(needed(ROOT), environ) if other else ())
        try:
            yield made
        finally:
            made.stop()


def test_the_pages_are_followed_without_a_failed_step(newcomer: Newcomer):
    page, readme = ROOT / "docs/quickstart.md", ROOT / "README.md"
    for command in commands_of(page):
        if newcomer.name == "root" or "smollm2" not in command:  # the other user's engine is a fake
            carry_out(newcomer, command)
    first, second = programs_of(page)
    assert newcomer.program(f"{first}\nprint(answer.choices[0].message.content)").strip()
    assert "serving" in newcomer.program(second)
    for command in commands_of(readme, "## Use it"):
        if "seatrial up" not in command:  # it runs
            carry_out(newcomer, command)
    newcomer.stop()
    assert newcomer.up is not None
    assert newcomer.up.returncode == 0


def carry_out(newcomer: Newcomer, command: str) -> None:
    """Do what the page says, and keep what it shows for the steps that use it."""
    if command.startswith(("make setup", "source ", "export ")):
        return  # the suite itself runs in what `make setup` made; `shell` activates it
    if command.startswith("seatrial up"):
        newcomer.start(command)
    elif command.startswith(FOLLOWS):
        newcomer.follow(command, "to the point")
    else:
        said = newcomer.shell(command, stdin="Hello\n")
        if found := re.search(r"chatcmpl-[\w-]+", said):
            newcomer.filled_in["chatcmpl-..."] = found[0]
        if found := re.search(r"\bst-[\w-]{20,}", said):
            newcomer.filled_in["st-..."] = found[0]


def test_a_command_reaches_a_home_that_was_named_for_up(newcomer: Newcomer):
    """`seatrial up --home X` prints the command that a client needs: it is tried on the home that is there."""
    left = newcomer.home / ".local/share/seatrial"
    assert json.loads((left / "run/stack.json").read_text())["supervisor"] is None
    done = subprocess.run(
        [*newcomer.before, "/bin/bash", "-c", f"source .venv/bin/activate && seatrial --home '{left}' status"],
        cwd=ROOT, env=None if newcomer.before else newcomer.environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, str(left) in done.stderr, "--home FOLDER" in done.stderr) == (6, True, True)
