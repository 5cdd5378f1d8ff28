"""What is told of a process that ended: how, and what its log said last."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.endings import describe
from infra.local.log_excerpt import excerpt, size

CHAIN = """INFO:     Started server process [17]
Traceback (most recent call last):
  File "/x/prefect/server.py", line 3, in bind
    sock.bind(address)
    ^^^^^^^^^^^^^^^^^^
PermissionError: [Errno 13] Permission denied: '/tmp/runner_storage/4'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/runner.py", line 9, in <module>
    main()
prefect.exceptions.RunnerError: the runner cannot make its storage
An exception occurred.
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "exit code 3"),
        (-4, "killed by SIGILL (the CPU lacks or misuses an instruction)"),
        (137, "killed by SIGKILL (ended from outside, probably because memory ran out)"),
        (-200, "killed by signal 200"),
        (255, "exit code 255"),
    ],
)
def test_an_exit_status_is_described(code: int, words: str) -> None:
    assert describe(code) == words


def log(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "service.log"
    path.write_text(text)
    return path


def test_the_last_exception_counts_and_not_the_last_line(tmp_path: Path) -> None:
    assert excerpt(log(tmp_path, CHAIN)) == "RunnerError: the runner cannot make its storage"


def test_an_error_line_counts_more_than_what_follows_it(tmp_path: Path) -> None:
    said = "INFO:     Waiting.\nERROR:    [Errno 98] address already in use\nINFO:     Application shutdown complete.\n"
    assert excerpt(log(tmp_path, said)) == "ERROR:    [Errno 98] address already in use"


def test_what_an_earlier_process_wrote_is_not_told(tmp_path: Path) -> None:
    path = log(tmp_path, CHAIN)
    since = size(path)
    with path.open("a") as file:
        file.write("the anchor is stuck\n")
    assert excerpt(path, since) == "the anchor is stuck"


def test_a_log_that_was_begun_again_is_read_from_its_start(tmp_path: Path) -> None:
    assert excerpt(log(tmp_path, "short\n"), since=10_000) == "short"


def test_silence_is_told(tmp_path: Path) -> None:
    assert excerpt(tmp_path / "none.log") == excerpt(log(tmp_path, "\n")) == "it wrote nothing"
