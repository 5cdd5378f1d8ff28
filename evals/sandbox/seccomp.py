"""A filter of system calls: it allows the calls of a Python that only computes; every other call fails with EPERM.

Classic BPF over `struct seccomp_data` (seccomp(2)), for x86-64 and aarch64. A call of another architecture or of x32 kills the process.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from evals.sandbox.linux import check, libc

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _IF_EQUAL, _IF_NOT_BELOW, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x4000_0000

_ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
"""Column of the tables below and AUDIT_ARCH_*, by machine."""

_NONE = -1
Numbers = tuple[int, int]


def _table(*lines: str) -> dict[str, Numbers]:
    """Read `name x86_64 aarch64, ...`; `-` where an architecture has no such call."""
    rows = [row.split() for line in lines for row in line.split(", ")]
    return {name: (_NONE if first == "-" else int(first), _NONE if second == "-" else int(second)) for name, first, second in rows}


_COMPUTING = _table(
    # files that are open, and the two pipes
    "read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, lseek 8 62, close 3 57, close_range 436 436, fstat 5 80",
    "dup 32 23, dup2 33 -, dup3 292 24, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72",
    # memory
    "mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, madvise 28 233",
    # its own signals and timers
    "rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132",
    "alarm 37 -, getitimer 36 102, setitimer 38 103, restart_syscall 219 128",
    # time, chance, and what it is
    "nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -",
    "times 100 153, getrandom 318 278, getrusage 98 165, getrlimit 97 163, uname 63 160, sysinfo 99 179, sched_getaffinity 204 123",
    "getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177",
    "getpgrp 111 -, getpgid 121 155, getsid 124 156, getcwd 79 17",
    # its one thread and its end
    "futex 202 98, sched_yield 24 124, membarrier 324 283, set_robust_list 273 99, rseq 334 293, exit 60 93, exit_group 231 94",
)
_LOOKING = _table(
    "stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, getdents64 217 61",
    "access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78",
)
_JUDGING = _table("recvmsg 47 212, sendto 44 206, recvfrom 45 207")
_OPEN, _OPENAT, _FCNTL, _PRLIMIT, _IOCTL = (2, _NONE), (257, 56), (72, 25), (302, 261), (16, 29)

_NOT_TO_READ = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o1000_0000 | 0o2000_0000  # O_PATH, O_TMPFILE
_PLAIN_FCNTL = (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)

Instruction = tuple[int, int, int, int]


def knows(machine: str | None = None) -> bool:
    """Return whether there are tables for this machine."""
    return (machine or os.uname().machine) in _ARCHITECTURES


def program(*, looking: bool, judging: bool = False, machine: str | None = None) -> bytes:
    """Return a filter. With `looking` files may be opened to be read; `judging` adds what it takes to ask for a cell."""
    column, architecture = _ARCHITECTURES[machine or os.uname().machine]
    allowed = {**_COMPUTING, **(_LOOKING if looking else {}), **(_JUDGING if judging else {})}
    rules = [([_return(_ALLOW)], numbers) for numbers in allowed.values()]
    if looking:
        rules += [(_no_bits(1, _NOT_TO_READ), _OPEN), (_no_bits(2, _NOT_TO_READ), _OPENAT)]
    rules += [
        (_one_of(1, _PLAIN_FCNTL), _FCNTL),
        (_all_zero(0, 2), _PRLIMIT),  # its own limits, to be read
        ([_return(_ERRNO | errno.ENOTTY)], _IOCTL),  # open() asks whether it is a terminal
    ]
    code: list[Instruction] = [
        *_unless_equal_kill(_ARCHITECTURE_AT, architecture),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_NOT_BELOW, 0, 1, _X32),
        _return(_KILL),
    ]
    for then, numbers in rules:
        if numbers[column] != _NONE:
            code += [(_IF_EQUAL, 0, len(then), numbers[column]), *then]
    code.append(_return(_ERRNO | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class Filter(NamedTuple):
    """A filter in the kernel's format, prepared once for all processes that are forked later."""

    argument: bytes
    buffer: Any
    """The memory that `argument` points to."""


def prepare(code: bytes) -> Filter:
    """Return the argument of `install`."""
    buffer = ctypes.create_string_buffer(code, len(code))
    return Filter(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)), buffer)


def install(prepared: Filter) -> None:
    """Apply a filter to this process permanently. Needs no_new_privs."""
    check(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, prepared.argument, 0, 0))


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _unless_equal_kill(offset: int, value: int) -> list[Instruction]:
    return [(_LOAD, 0, 0, offset), (_IF_EQUAL, 1, 0, value), _return(_KILL)]


def _no_bits(argument: int, mask: int) -> list[Instruction]:
    """Allow when the lower half of an argument has none of these bits."""
    return [(_LOAD, 0, 0, _lower(argument)), (_IF_ANY_BIT, 0, 1, mask), _return(_ERRNO | errno.EPERM), _return(_ALLOW)]


def _one_of(argument: int, values: Iterable[int]) -> list[Instruction]:
    """Allow when the lower half of an argument is one of these."""
    code: list[Instruction] = [(_LOAD, 0, 0, _lower(argument))]
    for value in values:
        code += [(_IF_EQUAL, 0, 1, value), _return(_ALLOW)]
    return [*code, _return(_ERRNO | errno.EPERM)]


def _all_zero(*arguments: int) -> list[Instruction]:
    """Allow when these arguments are 0, both halves."""
    code: list[Instruction] = []
    halves: Sequence[int] = [_lower(argument) + half for argument in arguments for half in (0, 4)]
    for offset in halves:
        code += [(_LOAD, 0, 0, offset), (_IF_EQUAL, 1, 0, 0), _return(_ERRNO | errno.EPERM)]
    return [*code, _return(_ALLOW)]


def _lower(argument: int) -> int:
    return _ARGUMENTS_AT + 8 * argument
