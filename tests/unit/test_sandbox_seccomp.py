"""The filter of system calls, run by an interpreter of classic BPF: what it allows on each architecture, and nothing else."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from evals.sandbox import seccomp

ALLOW, EPERM, ENOTTY, KILL = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOTTY, 0x8000_0000
ARCHITECTURE = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
I386 = 0x4000_0003
OPENAT = {"x86_64": 257, "aarch64": 56}
ALLOWED = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "exit_group": 231},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "exit_group": 94},
}
_X86_64 = (
    "socket 41, connect 42, clone 56, fork 57, vfork 58, execve 59, kill 62, ptrace 101, creat 85, prctl 157, mount 165, unshare 272, "
    "setns 308, bpf 321, perf_event_open 298, keyctl 250, tgkill 234, io_uring_setup 425, userfaultfd 323, process_vm_readv 310, "
    "memfd_create 319, openat2 437, clone3 435"
)
_AARCH64 = (
    "socket 198, connect 203, clone 220, execve 221, kill 129, ptrace 117, prctl 167, mount 40, unshare 97, setns 268, bpf 280, "
    "perf_event_open 241, keyctl 219, tgkill 131, process_vm_readv 270, io_uring_setup 425, userfaultfd 282, memfd_create 279, "
    "openat2 437, clone3 435"
)
FORBIDDEN = {
    machine: {name: int(number) for name, number in (row.split() for row in rows.split(", "))}
    for machine, rows in (("x86_64", _X86_64), ("aarch64", _AARCH64))
}
MACHINES = sorted(ARCHITECTURE)


def verdict(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a filter on one call, as the kernel does (Documentation/networking/filter.rst)."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    program = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    at, loaded = 0, 0
    while True:
        operation, when_true, when_false, value = program[at]
        at += 1
        match operation:
            case 0x20:
                (loaded,) = struct.unpack_from("=I", data, value)
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[operation]
                at += when_true if holds else when_false
            case 0x06:
                return int(value)
            case _:
                pytest.fail(f"an operation that no filter of ours has: {operation:#x}")


def asked(machine: str, number: int, *arguments: int, looking: bool = True, judging: bool = False) -> int:
    return verdict(seccomp.program(looking=looking, judging=judging, machine=machine), ARCHITECTURE[machine], number, *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_computing_needs_is_allowed(machine: str) -> None:
    assert {name: asked(machine, number) for name, number in ALLOWED[machine].items()} == dict.fromkeys(ALLOWED[machine], ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("judging", [False, True])
def test_dangerous_calls_fail(machine: str, *, judging: bool) -> None:
    expected = dict.fromkeys(FORBIDDEN[machine], EPERM)
    assert {name: asked(machine, number, judging=judging) for name, number in FORBIDDEN[machine].items()} == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_call_that_is_not_known_yet_fails(machine: str) -> None:
    assert {asked(machine, number) for number in range(470, 1000)} == {EPERM}


@pytest.mark.parametrize("machine", MACHINES)
def test_call_of_another_architecture_kills(machine: str) -> None:
    code = seccomp.program(looking=True, machine=machine)
    others = [I386, *(number for name, number in ARCHITECTURE.items() if name != machine)]
    assert {verdict(code, other, 0) for other in others} == {KILL}
    assert asked(machine, 0x4000_0000) == KILL, "x32"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, 0o20000000, 0o10000000, 3])
def test_files_are_opened_to_be_read_only(machine: str, flags: int) -> None:
    assert asked(machine, OPENAT[machine], 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    assert asked(machine, OPENAT[machine], 0, 0, flags | os.O_CLOEXEC) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_no_file_is_opened_where_nothing_else_guards_them(machine: str) -> None:
    assert asked(machine, OPENAT[machine], 0, 0, os.O_RDONLY, looking=False) == EPERM


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 302), ("aarch64", 261)])
def test_limits_may_be_read_but_neither_set_nor_asked_of_another_process(machine: str, number: int) -> None:
    assert asked(machine, number, 0, 7, 0) == ALLOW
    assert asked(machine, number, 1, 7, 0) == EPERM
    assert asked(machine, number, 0, 7, 1) == EPERM
    assert asked(machine, number, 0, 7, 1 << 32) == EPERM, "the upper half of a pointer"


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 72), ("aarch64", 25)])
def test_descriptor_sends_no_signals(machine: str, number: int) -> None:
    get_flags, set_flags, set_owner = 3, 4, 8
    assert asked(machine, number, 0, get_flags) == ALLOW
    assert asked(machine, number, 0, set_flags) == EPERM
    assert asked(machine, number, 0, set_owner) == EPERM


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 16), ("aarch64", 29)])
def test_nothing_is_a_terminal(machine: str, number: int) -> None:
    assert asked(machine, number) == ENOTTY


def test_machine_without_a_table_is_not_known() -> None:
    assert seccomp.knows("x86_64")
    assert not seccomp.knows("riscv64")
