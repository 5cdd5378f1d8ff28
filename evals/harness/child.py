"""The child process: imports lm-eval, then runs the jobs that come on its standard input. `python -m evals.harness.child`.

It says `ready` once lm-eval is there, and ends when its standard input ends (the platform died or has no more work) or when no job came
for ten minutes. It holds no secret: process.py gives it none.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from core.errors import Fault, Refused, SeatrialError
from evals.harness.job import ASKED, DESCRIBE, DESCRIBED, DONE, ERROR, JOB, READY, ROW, VERDICTS, Job, line
from evals.harness.rows import Row

_IDLE_S = 600.0
_NICE = 5  # the engine that answers has the processors first


class Channel:
    """Lines from and to the platform. The end of the input ends the process at once."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)  # whatever lm-eval's parts print goes to the log
        self._lock = threading.Lock()
        self._came: SimpleQueue[dict[str, Any]] = SimpleQueue()
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def say(self, kind: str, **fields: Any) -> None:
        """Send a line."""
        data = memoryview(line(kind, **fields))
        with self._lock:
            while data:
                data = data[os.write(self._out, data) :]

    def next(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the next line. Raises Empty after `timeout_s`."""
        return self._came.get(timeout=timeout_s)

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            for text in sys.stdin.buffer:
                self._came.put(json.loads(text))
        os._exit(0)


def main() -> None:
    """Say ready, and do what is asked until nothing is."""
    os.nice(_NICE)
    channel = Channel()
    from evals.harness import work  # noqa: PLC0415 - imports lm-eval, which takes seconds: after the channel is open

    channel.say(READY)
    while True:
        try:
            message = channel.next(_IDLE_S)
        except Empty:
            return
        try:
            if message["kind"] == DESCRIBE:
                channel.say(DESCRIBED, **work.describe(message["task"], message["folder"]))
            elif message["kind"] == JOB:
                _run(channel, Job.from_json(message["job"]), work)
        except SeatrialError as error:
            channel.say(ERROR, **_told(error))


def _run(channel: Channel, job: Job, work: Any) -> None:
    def verdicts() -> Mapping[str, bool | None]:
        channel.say(ASKED)
        message = channel.next()
        if message["kind"] != VERDICTS:
            raise Fault(f"the platform said {message['kind']!r} where verdicts were due")
        passed: dict[str, bool | None] = message["passed"]
        return passed

    document = dict(work.run(job, lambda row: _row(channel, row), verdicts))
    scored = document.pop("scored", [])
    _keep(job.results, document)
    channel.say(DONE, scored=scored)


def _row(channel: Channel, row: Row) -> None:
    channel.say(ROW, row=json.loads(row.to_json()))


def _keep(path: Path, document: Mapping[str, Any]) -> None:
    """Write lm-eval's results document, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=1, default=str, sort_keys=True), encoding="utf-8")
    part.replace(path)


def _told(error: SeatrialError) -> dict[str, Any]:
    return {"error": error.code, "what": error.what, "hint": error.hint, "reason": error.reason if isinstance(error, Refused) else ""}


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End with the exception as the last word: the listening thread would else make the interpreter abort, with words of its own."""
    sys.__excepthook__(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    sys.excepthook = _ended
    main()
