"""The judge's end of a cell: questions go in, answers come back as data, and every answer is due."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

from evals.sandbox import linux
from evals.sandbox.cell import live
from evals.sandbox.ground import Ground, Limits
from evals.sandbox.wire import MAX_LINE_BYTES, NotData, decode, encode

_END_S = 0.25  # between the end of a process's pipe and its own
_PIECE = 1 << 16


class Ended(BaseException):
    """The cell gives no more answers: `outcome` and why. No check may catch it as it catches what its candidate raises."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail


class Cell:
    """A cell, forked when this is made. It inherits nothing that its parent learns later."""

    def __init__(self, ground: Ground, limits: Limits) -> None:
        inbox, self._calls = os.pipe()
        self._answers, outbox = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            live(ground, limits, inbox, outbox)
        os.close(inbox)
        os.close(outbox)
        os.set_blocking(self._calls, False)
        os.set_blocking(self._answers, False)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._buffer = bytearray()
        self._cpu_s = limits.cpu_s
        self._clock = linux.cpu_clock(self._pid)
        self._waited: int | None = None
        self.cpu_s = 0.0
        self.over: Ended | None = None
        self.deadline = time.monotonic() + limits.wall_s

    def ask(self, question: Any) -> Any:
        """Send a question and return the answer. Raises Ended, and from then on always."""
        self.send(question)
        return self.receive()

    def send(self, question: Any) -> None:
        """Send a question. What the cell says meanwhile is read, so that neither waits for the other for ever."""
        try:
            data = memoryview(encode(question))
        except NotData as error:
            raise self._over(Ended("sandbox_fault", f"the suite's check gives its candidate {error}")) from None
        if self.over is not None:
            raise self.over
        if self._buffer:
            raise self._over(Ended("failed", "the program answers out of turn"))
        while data:
            try:
                data = data[os.write(self._calls, data) :]
            except BrokenPipeError:
                raise self._over(self._gone()) from None
            except BlockingIOError:
                self._poll.register(self._calls, select.POLLOUT)
                self._await()
                self._poll.unregister(self._calls)

    def receive(self) -> Any:
        """Return the answer to the question before."""
        while (end := self._buffer.find(b"\n")) < 0:
            self._await()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return decode(line)
        except NotData as error:
            raise self._over(Ended("failed", f"the program's answer is no data: {error}")) from None
        except MemoryError:
            raise self._over(Ended("failed", "the program's answer is too large")) from None

    def end(self) -> None:
        """Kill the cell and return when it is gone; `cpu_s` then says what it used. A cell has one process: it may not fork."""
        if self._waited is None:
            os.kill(self._pid, signal.SIGKILL)
            self._reap(0)

    def _await(self) -> None:
        """Wait until something moves and take what is there. Raises Ended when a limit is reached or the cell is gone."""
        wall_left = self.deadline - time.monotonic()
        if wall_left <= 0:
            raise self._over(Ended("timed_out", "it did not end in time"))
        cpu_left = self._cpu_s - time.clock_gettime(self._clock)
        if cpu_left <= 0:
            raise self._over(Ended("timed_out", f"it used up its CPU time of {self._cpu_s:.3g} s"))
        ready = self._poll.poll(1000 * min(wall_left, max(cpu_left, 0.005)))
        if any(descriptor == self._answers for descriptor, _events in ready):
            self._take()

    def _take(self) -> None:
        piece = os.read(self._answers, _PIECE)
        if not piece:
            raise self._over(self._gone())
        self._buffer += piece
        if len(self._buffer) > MAX_LINE_BYTES:
            raise self._over(Ended("failed", "the program answers with more than it may"))

    def _over(self, end: Ended) -> Ended:
        self.over = self.over or end
        return self.over

    def _gone(self) -> Ended:
        """Say why there are no more answers: the program ended, which no check asks for, or broke a limit."""
        until = time.monotonic() + _END_S
        while self._waited is None and time.monotonic() < until:
            if not self._reap(os.WNOHANG):
                select.select([], [], [], 0.001)
        if self._waited is None:
            return Ended("failed", "it closed its pipes")
        code = os.waitstatus_to_exitcode(self._waited)
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and self.cpu_s >= self._cpu_s):
            return Ended("timed_out", f"it used up its CPU time of {self._cpu_s:.3g} s")
        if code == -signal.SIGKILL:
            return Ended("failed", "it was killed, most likely for memory")
        if code < 0:
            return Ended("failed", f"it died of signal {-code}")
        return Ended("failed", f"it ended itself with status {code} before the check was through")

    def _reap(self, options: int) -> bool:
        pid, waited, usage = os.wait4(self._pid, options)
        if pid:
            self._waited, self.cpu_s = waited, usage.ru_utime + usage.ru_stime
        return bool(pid)
