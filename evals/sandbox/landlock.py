"""Landlock: a process permanently gives up access to files, TCP and other processes, without privileges (Linux 5.13 and later)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from evals.sandbox.linux import check, libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every 64-bit machine
_WANT_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""The number of access rights to files in each version of Landlock, counted from the lowest bit."""
_BIND_AND_CONNECT, _ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3
_VERSION_WITH_TCP, _VERSION_WITH_SCOPES = 4, 6


def version() -> int:
    """Return the kernel's version of Landlock, 0 when it has none or does not permit its use."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, 0, _WANT_VERSION)))


def ruleset(readable: Iterable[str]) -> int:
    """Return a descriptor of rules that permit reading below the `readable` folders and nothing else that this kernel can refuse."""
    known = version()
    files = (1 << _FILE_RIGHTS.get(known, max(_FILE_RIGHTS.values()))) - 1
    fields = [files]
    if known >= _VERSION_WITH_TCP:
        fields.append(_BIND_AND_CONNECT)
    if known >= _VERSION_WITH_SCOPES:
        fields.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = check(libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    for path in readable:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            check(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", _READ_FILE | _READ_DIR, folder), 0))
        finally:
            os.close(folder)
    return rules


def restrict(rules: int) -> None:
    """Apply `rules` to this process and those that it forks, in a new domain. Needs no_new_privs."""
    check(libc.syscall(_RESTRICT_SELF, rules, 0))
