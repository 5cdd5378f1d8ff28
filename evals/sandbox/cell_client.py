"""The judge's client of a cell: it sends questions and receives answers as data, each within the limits."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import Any

from evals.sandbox import linux
from evals.sandbox.codec import MAX_LINE_BYTES, NotData, decode, encode
from evals.sandbox.messages import END, EXITED, LIMITS, STARTED, Limits

_END_MS = 250  # between the end of a process's socket and the end of the process
_LITTLE, _MUCH = 1 << 12, 1 << 16


class Ended(BaseException):
    """The cell gives no more answers, for the reason `detail`. A BaseException, so that `except Exception` in a check does not catch it."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail


class CellClient:
    """A cell. The constructor requests it on the socket `zygote`. Raises Ended when the zygote fails to fork it."""

    def __init__(self, zygote: socket.socket, limits: Limits) -> None:
        self._zygote = zygote
        zygote.send(LIMITS.pack(*limits))
        word, descriptors, _flags, _address = socket.recv_fds(zygote, STARTED.size, 2)
        (number,) = STARTED.unpack(word)
        if not descriptors:
            raise Ended("sandbox_fault", f"no process for a cell: {os.strerror(number)}")
        self._channel, self._alive = descriptors
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        self._buffer = bytearray()
        self._cpu_s = limits.cpu_s
        self._clock = linux.cpu_clock(number)  # the zygote reaps the process only after END, so the pid is not reused
        self._gone = False
        self.cpu_s = 0.0
        self.over: Ended | None = None
        self.deadline = time.monotonic() + limits.wall_s

    def ask(self, question: Any) -> Any:
        """Send a question and return the answer. Raises Ended; every later call raises it again."""
        self.send(question)
        return self.receive()

    def send(self, question: Any) -> None:
        """Send a question. Output of the cell is read meanwhile, so that the two do not deadlock."""
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
                data = data[os.write(self._channel, data) :]
            except (BrokenPipeError, ConnectionResetError):
                raise self._over(self._why_gone()) from None
            except BlockingIOError:
                self._poll.modify(self._channel, select.POLLIN | select.POLLOUT)
                self._await()
                self._poll.modify(self._channel, select.POLLIN)

    def receive(self) -> Any:
        """Return the answer to the last question."""
        while (end := self._buffer.find(b"\n")) < 0:
            self._await()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return decode(line)
        except NotData as error:
            raise self._over(Ended("failed", f"the program's answer is not plain data: {error}")) from None
        except MemoryError:
            raise self._over(Ended("failed", "the program's answer is too large")) from None

    def end(self) -> int:
        """Have the cell killed and return its wait status. Sets `cpu_s` to the CPU seconds that it used."""
        if self._gone:
            return 0
        self._gone = True
        os.close(self._channel)
        os.close(self._alive)
        self._zygote.send(END)
        status, self.cpu_s = EXITED.unpack(self._zygote.recv(EXITED.size))
        return int(status)

    def _await(self) -> None:
        """Wait for an event and read the data that has arrived. Raises Ended when a limit is reached or the cell has ended."""
        wall_left = self.deadline - time.monotonic()
        if wall_left <= 0:
            raise self._over(Ended("timed_out", "it did not end in time"))
        cpu_left = self._cpu_s - time.clock_gettime(self._clock)
        if cpu_left <= 0:
            raise self._over(Ended("timed_out", self._used_up()))
        for _descriptor, events in self._poll.poll(1000 * min(wall_left, max(cpu_left, 0.005))):
            if events & ~select.POLLOUT:
                self._take()

    def _take(self) -> None:
        try:
            piece = os.read(self._channel, _MUCH if self._buffer else _LITTLE)
        except ConnectionResetError:  # it ended with a question unread
            piece = b""
        if not piece:
            raise self._over(self._why_gone())
        self._buffer += piece
        if len(self._buffer) > MAX_LINE_BYTES:
            raise self._over(Ended("failed", "the program answers with more than it may"))

    def _over(self, end: Ended) -> Ended:
        self.over = self.over or end
        return self.over

    def _used_up(self) -> str:
        return f"it used up its CPU time of {self._cpu_s:.3g} s"

    def _why_gone(self) -> Ended:
        """Return the reason why there are no more answers: the program ended early, or exceeded a limit."""
        life = select.poll()
        life.register(self._alive, select.POLLIN)
        by_itself = bool(life.poll(_END_MS))
        code = os.waitstatus_to_exitcode(self.end())
        if not by_itself:
            return Ended("failed", "it closed its pipes")
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and self.cpu_s >= self._cpu_s):
            return Ended("timed_out", self._used_up())
        if code == -signal.SIGKILL:
            return Ended("failed", "it was killed, most likely for memory")
        if code < 0:
            return Ended("failed", f"it died of signal {-code}")
        return Ended("failed", f"it ended itself with status {code} before the check was through")
