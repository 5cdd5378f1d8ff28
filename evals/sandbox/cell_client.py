"""The judge's client of a cell: it sends questions and receives answers as data, each within the limits."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

from evals.sandbox import linux
from evals.sandbox.codec import MAX_LINE_BYTES, NotData, decode, encode
from evals.sandbox.messages import END, EXITED, KILL, LIMITS, READY, STARTED, Limits
from evals.sandbox.raised import restore

_END_MS = 250  # between the end of a process's socket and the end of the process
_LITTLE, _MUCH = 1 << 12, 1 << 16
_SET_UP_SHARE = 0.8  # of the grace: less than the zygote grants to the whole job
_MOST_ITEMS = 256  # of an iterator, in one answer


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
        self._token = ""
        self._gone = False
        self._status = 0
        self.cpu_s = 0.0
        self.untouched = True
        """Whether what the check sends cannot depend on the program: it has received no answer, and none of the program's names."""
        self.over: Ended | None = None
        self.wall_s = limits.wall_s
        self.deadline = time.monotonic() + _SET_UP_SHARE * limits.grace_s

    def load(self, code: str) -> None:
        """Send the program. Raises Ended."""
        self._token = os.urandom(8).hex()
        try:
            line = encode((self._token, code))
        except (NotData, MemoryError) as error:
            raise self._over(Ended("failed", f"the program cannot be loaded: {error}")) from None
        try:
            self._send(line)
        except Ended as end:  # no program runs before it has arrived whole
            raise self._not_set_up(end.detail) from None

    def await_ready(self) -> None:
        """Wait until the cell is set up, which it reports before it reads the program. The program's time begins now. Raises Ended."""
        try:
            line = self._line()
        except Ended as end:
            raise self._not_set_up(end.detail) from None
        if line != READY:
            raise self._not_set_up(line.decode("utf-8", "replace"))
        self.deadline = time.monotonic() + self.wall_s

    def names(self) -> dict[str, str]:
        """Return the program's functions and modules by name. Raises Ended, also when the program raises an exception."""
        match self._receive():
            case ["loaded", dict(names)]:
                return {name: kind for name, kind in names.items() if isinstance(name, str) and isinstance(kind, str)}
            case ["raised", list([str(kind), *_]), str(text), _]:
                raise self._over(Ended("failed", f"{kind.rpartition('.')[2]}: {text}".rstrip(": ")))
            case _:
                raise self._out_of_turn()

    def call(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Call a function of the program and return its value or raise its exception. Raises Ended; every later call raises it again."""
        match self._ask("call", name, arguments, keywords):
            case ["value", value]:
                return value
            case ["raised", list(kinds), str(text), given]:
                raise restore(kinds, text, given)
            case ["unreadable", str(text)]:  # no exception, which the check could expect
                raise self._over(Ended("failed", text))
            case _:
                raise self._out_of_turn()

    def end(self) -> int:
        """Have the cell killed and return its wait status. Sets `cpu_s` to the CPU seconds that it used. The job is over."""
        self._kill(END)
        return self._status

    def _items(self, number: int) -> Iterator[Any]:
        """Yield the items of an iterator that the program has returned, as the check takes them: one, then two, then four, ..."""
        most = 1
        while True:
            match self._ask("next", number, most):
                case ["items", list(items), ()] if items:
                    yield from items
                case ["items", list(items), ("end",)]:
                    yield from items
                    return
                case ["items", list(items), ("raised", list(kinds), str(text), given)]:
                    yield from items
                    raise restore(kinds, text, given)
                case ["raised", list(kinds), str(text), given]:
                    raise restore(kinds, text, given)
                case ["unreadable", str(text)]:
                    raise self._over(Ended("failed", text))
                case _:
                    raise self._out_of_turn()
            most = min(2 * most, _MOST_ITEMS)

    def _ask(self, *question: Any) -> list[Any]:
        """Send a question and return the answer."""
        if self.over is not None:
            raise self.over
        self._token = os.urandom(8).hex()
        try:
            line = encode((self._token, *question))
        except (NotData, MemoryError) as error:
            whose = "sandbox_fault" if self.untouched else "failed"
            raise self._over(Ended(whose, f"the suite's check gives its candidate {error}")) from None
        self._send(line)
        self.untouched = False
        return self._receive()

    def _send(self, line: bytes) -> None:
        """Send a line. Output of the cell is read meanwhile, so that the two do not deadlock."""
        data = memoryview(line)
        while data:
            try:
                data = data[os.write(self._channel, data) :]
            except (BrokenPipeError, ConnectionResetError):
                raise self._over(self._why_gone()) from None
            except BlockingIOError:
                self._poll.modify(self._channel, select.POLLIN | select.POLLOUT)
                self._await()
                self._poll.modify(self._channel, select.POLLIN)

    def _receive(self) -> list[Any]:
        """Return the answer to the last question, without its token."""
        line = self._line()
        try:
            answer = decode(line, self._items)
        except NotData as error:
            raise self._over(Ended("failed", f"the program's answer is not plain data: {error}")) from None
        except MemoryError:
            raise self._over(Ended("failed", "the program's answer is too large")) from None
        match answer:
            case (token, *rest) if token == self._token:
                return rest
            case _:
                raise self._out_of_turn()

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._await()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _kill(self, word: bytes) -> None:
        """Have the cell killed. A second time, END reports the end of the job. The alarm may interrupt each line."""
        if not self._gone:
            self._gone = True
            os.close(self._channel)
            os.close(self._alive)
        self._zygote.send(word)
        status, cpu_s = EXITED.unpack(self._zygote.recv(EXITED.size))
        self._status, self.cpu_s = status or self._status, cpu_s or self.cpu_s

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

    def _not_set_up(self, why: str) -> Ended:
        self.over = Ended("sandbox_fault", f"the cell could not be set up: {why}")
        return self.over

    def _out_of_turn(self) -> Ended:
        return self._over(Ended("failed", "the program answers out of turn"))

    def _used_up(self) -> str:
        return f"it used up its CPU time of {self._cpu_s:.3g} s"

    def _why_gone(self) -> Ended:
        """Return the reason why there are no more answers: the program ended early, or exceeded a limit."""
        life = select.poll()
        life.register(self._alive, select.POLLIN)
        by_itself = bool(life.poll(_END_MS))
        self._kill(KILL)
        code = os.waitstatus_to_exitcode(self._status)
        if not by_itself:
            return Ended("failed", "it closed its pipes")
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and self.cpu_s >= self._cpu_s):
            return Ended("timed_out", self._used_up())
        if code == -signal.SIGKILL:
            return Ended("failed", "it was killed, most likely for memory")
        if code < 0:
            return Ended("failed", f"it died of signal {-code}")
        return Ended("failed", f"it ended itself with status {code} before the check was through")
