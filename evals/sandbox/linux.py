"""The kernel's means of confinement, called through libc. Each function raises OSError where it is not permitted."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterable

libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x0002_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 2, 4, 0x4000, 0x4_0000, 2
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same numbers on every 64-bit machine
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _AT_FDCWD, _AT_RECURSIVE = 1, 4, -100, 0x8000
_READ_ONLY = 1 | 2 | 4  # MOUNT_ATTR_RDONLY, _NOSUID, _NODEV
_CAPABILITY_VERSION_3 = 0x2008_0522
_SIGKILL = 9
_OPEN_FILES = 24
NOBODY = 65534


def die_with_parent() -> None:
    """Be killed when the parent ends. A change of user clears it: call it again."""
    check(libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0))


def hide_memory() -> None:
    """Let no process of the same user read this one's memory or trace it, nor those that it forks."""
    check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def keep_only(*kept: int) -> None:
    """Close every inherited file but these and the standard streams, which lead nowhere."""
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, 1 << 20)


def own_namespaces() -> None:
    """Take namespaces for processes (from the next fork on), network, IPC and mounts."""
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC
    if os.geteuid() == 0:
        check(libc.unshare(flags))
    else:
        user, group = os.geteuid(), os.getegid()
        check(libc.unshare(_CLONE_NEWUSER | flags))
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))


def own_root(place: str, shown: Iterable[str]) -> None:
    """Change the root of the file system: to an empty one with the `shown` folders at their paths, nothing writable, the old one gone.

    `place` is any folder; the new root is put together there, in this mount namespace only. All paths are absolute.
    """
    os.umask(0o022)  # user nobody must traverse the folders made here, regardless of the platform's umask
    trees = [(path, _tree(path)) for path in shown]  # before anything is covered
    check(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=1m,mode=0755,nr_inodes=200"))
    for path, tree in trees:
        inside = place + path
        os.makedirs(inside, exist_ok=True)
        check(libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(inside), _MOVE_MOUNT_F_EMPTY_PATH))
        os.close(tree)
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    check(libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(place), _AT_RECURSIVE, attributes, ctypes.sizeof(attributes)))
    os.chdir(place)
    check(libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."))
    check(libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _tree(path: str) -> int:
    return check(libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC))


def drop_privileges() -> None:
    """Switch from root to user nobody, drop every capability, and never gain one again."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()))
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def limit(cpu_s: float, memory_bytes: int) -> None:
    """Bound CPU time and address space; no file, no core dump, no additional process or thread, few open files.

    The kernel limits CPU time in whole seconds, rounded up; the judge enforces the exact limit.
    """
    cpu = int(cpu_s) + 1
    for which, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        resource.setrlimit(which, (soft, hard))


def cpu_clock(pid: int) -> int:
    """Return the clock of the CPU time of process `pid`, for `time.clock_gettime` (clock_getcpuclockid(3) computes the same)."""
    return (~pid << 3) | 2


def check(result: int) -> int:
    """Return what a call returned. Raises OSError when that is below 0."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
