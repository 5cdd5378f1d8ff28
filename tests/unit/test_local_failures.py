"""Expected failures of local commands end with two lines and an exit code, never with a traceback."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.errors import Conflict, DiskFull, Forbidden, NotFound, SeatrialError, Transient
from infra.local import ports
from infra.local.failures import Failed, of_os, reported

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, environ: dict[str, str] | None = None) -> Result:
    from seatrial.cli import main  # noqa: PLC0415 - the whole command line, with the platform's commands

    return CliRunner().invoke(main, list(words), env=environ or {}, catch_exceptions=False)


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.EACCES, SeatrialError, "owner"),
        (errno.EROFS, SeatrialError, "writable"),
        (errno.ENOSPC, DiskFull, "disk space"),
        (errno.EDQUOT, DiskFull, "quota"),
        (errno.EFBIG, DiskFull, "size limit"),
        (errno.EADDRINUSE, SeatrialError, "port"),
        (errno.EMFILE, SeatrialError, "ulimit"),
    ],
)
def test_a_failure_of_the_system_names_the_path_and_what_to_do(number: int, kind: type[SeatrialError], says: str) -> None:
    error = of_os(OSError(number, os.strerror(number), "/srv/home/run"))
    assert isinstance(error, kind)
    assert error.what == f"/srv/home/run: {os.strerror(number)}"
    assert says in error.hint


@pytest.mark.parametrize(
    ("error", "code"), [(Forbidden("x"), 3), (NotFound("x"), 4), (Conflict("x"), 5), (Transient("x"), 6), (DiskFull("x"), 1)]
)
def test_exit_codes_are_the_documented_ones(error: SeatrialError, code: int) -> None:
    @reported
    def command() -> None:
        raise error

    with pytest.raises(Failed) as failed:
        command()
    assert failed.value.exit_code == code


@pytest.mark.parametrize("command", ["up", "down", "doctor"])
def test_a_home_that_is_a_file_ends_with_a_message(tmp_path: Path, command: str) -> None:
    home = tmp_path / "file"
    home.touch()
    done = run(command, "--home", str(home))
    assert done.exit_code == 1 or command == "doctor"
    assert "Traceback" not in done.output
    if command == "up":
        assert str(home) in done.output
        assert "next: " in done.output


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize(("options", "says"), [("ro", "Read-only file system"), ("size=64k", "No space left on device")])
def test_a_home_without_room_or_right_to_write_ends_with_a_message(tmp_path: Path, options: str, says: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    fill = "head -c 1m /dev/zero > filler 2>/dev/null || true" if "size" in options else "true"
    script = f'mount -t tmpfs -o {options} tmpfs "{home}" && cd "{home}" && {{ {fill}; }} && cd "{ROOT}" && exec "$@"'
    command = [sys.executable, "-c", "from seatrial.cli import main; main()", "up", "--home", str(home)]
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert says in done.stderr or "disk is full" in done.stderr, done.stderr
    assert "next: " in done.stderr


def test_a_port_that_was_given_and_is_taken_is_a_conflict_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("up", "--home", str(tmp_path), "--gateway-port", str(port))
    assert done.exit_code == 5
    assert f"port {port} for gateway is taken by process {os.getpid()}" in done.output


def test_a_process_that_ends_while_ports_are_looked_at_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_listening", lambda _port: {"socket:[1]"})
    monkeypatch.setattr(ports, "_holds", lambda entry, _inodes: entry.name == str(os.getpid()))
    monkeypatch.setattr(Path, "read_bytes", lambda _self: (_ for _ in ()).throw(ProcessLookupError()))
    assert ports.holder(1) == f"process {os.getpid()}"


@pytest.mark.parametrize("command", ["up", "down", "doctor", "settings"])
def test_a_home_given_before_the_command_is_the_commands_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    found = []

    def remembered(**given: object) -> object:
        found.append(given["home"])
        raise NotFound("enough")

    monkeypatch.setattr("infra.local.commands.read_settings", remembered)
    run("--home", str(tmp_path), command)
    run("--home", "/elsewhere", command, "--home", str(tmp_path))
    assert found == [tmp_path, tmp_path]
