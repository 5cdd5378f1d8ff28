"""A connection to the fork server: one request, and the answers on it. The protocol: vllm/seatrial_engine/fork_server.py."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_ANSWER_S = 10.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


class ForkConnection:
    """One request to the fork server. Close it when its answers are not needed any more."""

    def __init__(self, path: Path) -> None:
        """Connect. Raises OSError, also where a process of another user listens."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._answers = self._socket.makefile("rb")
        try:
            self._socket.settimeout(_ANSWER_S)
            _connect(self._socket, path)
            _refuse_other_users(self._socket)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the connection, which the context closes."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the connection."""
        self.close()

    def request(self, document: Mapping[str, object], descriptors: Sequence[int] = (), *, answer_s: float = _ANSWER_S) -> int:
        """Ask for a process and return its pid. Raises OSError if the fork server refuses, or does not answer within `answer_s`."""
        self._socket.settimeout(answer_s)
        line = json.dumps(document).encode() + b"\n"
        sent = socket.send_fds(self._socket, [line], list(descriptors)) if descriptors else 0
        self._socket.sendall(line[sent:])
        answer = self._answer()
        if not isinstance(answer.get("pid"), int):
            raise OSError(str(answer.get("error", "the fork server closed the connection")))
        self._socket.settimeout(_ANSWER_S)
        return int(str(answer["pid"]))

    def exit_code(self) -> int | None:
        """Return how the process ended (negative: the signal). Ask once it has ended. None if the fork server has ended or hangs."""
        try:
            code = self._answer().get("exit")
        except OSError:
            return None
        return code if isinstance(code, int) else None

    def close(self) -> None:
        """Close the connection. An engine keeps running; a program is killed."""
        self._answers.close()
        self._socket.close()

    def _answer(self) -> dict[str, object]:
        """Return the next line; empty when the fork server has ended. Raises OSError."""
        try:
            document = json.loads(self._answers.readline() or b"{}")
        except ValueError as error:
            message = "the answer of the fork server is not JSON"
            raise OSError(message) from error
        return document if isinstance(document, dict) else {}


def _connect(connection: socket.socket, path: Path) -> None:
    """Connect to a socket at a path of any length: the address may have 107 bytes. Raises OSError."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _refuse_other_users(connection: socket.socket) -> None:
    """Raise PermissionError unless a process of this user listens."""
    user = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    if user != os.geteuid():
        message = f"the fork server must run as user {os.geteuid()}, it runs as user {user}"
        raise PermissionError(message)
