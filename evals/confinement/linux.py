"""The kernel's means of confinement, called through libc. Each function raises OSError where it is not permitted."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x0002_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x4_0000
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1  # the same number on every 64-bit machine
_CAPABILITY_VERSION_3 = 0x2008_0522
_SIGKILL = 9
NOBODY = 65534


def die_with_parent(by: int = _SIGKILL) -> None:
    """Get the signal `by` when the parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0))


def hide_memory() -> None:
    """Let no process of the same user read this one's memory or trace it."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def inherit_orphans() -> None:
    """Become the parent of whatever grandchild loses its own."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def show_memory() -> None:
    """Undo `hide_memory` in a child that holds nothing to hide: only then may it write its own user map."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def own_namespaces() -> None:
    """Take namespaces for processes (from the next fork on), network, IPC and mounts, with every file system read-only."""
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC
    if os.geteuid() == 0:
        _check(_libc.unshare(flags))
    else:
        user, group = os.geteuid(), os.getegid()
        _check(_libc.unshare(_CLONE_NEWUSER | flags))
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    read_only = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, read_only, ctypes.sizeof(read_only)))


def own_root(folder: Path, shown: Iterable[Path], tmpfs_bytes: int) -> None:
    """Make `folder` the root of the file system: a tmpfs with the `shown` folders read-only at their places and a writable /tmp."""
    options = f"size={tmpfs_bytes},mode=0755,nr_inodes=1000".encode()
    _check(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_NOSUID | _MS_NODEV, options))
    for path in shown:
        place = folder / path.relative_to("/")
        place.mkdir(parents=True, exist_ok=True)
        _check(_libc.mount(os.fsencode(path), os.fsencode(place), None, _MS_BIND | _MS_REC, None))
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    os.chroot(folder)
    os.chdir("/tmp")  # noqa: S108 - the cell's own


def drop_privileges() -> None:
    """Become nobody where we are root, give up every capability, and never gain one again."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def limit(cpu_s: float, memory_bytes: int, file_bytes: int) -> None:
    """Bound CPU time, address space, file size and open files; no core dump, and no process or thread beside this one."""
    cpu = max(1, int(cpu_s + 0.999))
    for which, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, 32, 32),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        resource.setrlimit(which, (soft, hard))


def bound_memory(memory_bytes: int) -> None:
    """Bound the address space alone."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
