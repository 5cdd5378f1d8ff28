"""Where the stack's processes write: below the home, readable by its owner only.

Temporary files and caches of libraries follow environment variables; `environ` sets every one that the stack's programs know.
Unix sockets have short, relative names (serving/engines/fork_server.py, launcher.py), so that a home may lie at any depth.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

UMASK = 0o077
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OURS = (
    *("benchmarks", "cache", "downloads", "engines", "logs", "mlflow-artifacts", "prefect", "run", "scratch", "spool", "weights"),
    *("mlflow.db", "mlflow.db-shm", "mlflow.db-wal", "mlflow.db-journal"),
    *("seatrial.db", "seatrial.db-shm", "seatrial.db-wal", "seatrial.db-journal"),
    *("operator.key", "seatrial.toml"),
)
"""What a stack writes into its home. Other entries are left alone: the folder may be somebody's home directory."""


def temporary(home: Path) -> Path:
    """Return the folder of temporary files. Its name is one that no home directory has by chance: it is emptied."""
    return home / "run" / "tmp"


def environ(home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep temporary files and caches below `home`.

    A variable that names one cache (HF_HOME, VLLM_CACHE_ROOT, ...) and is set already is kept: somebody chose to share that cache.
    The hub's token stays where `hf auth login` wrote it.
    """
    cache = home / "cache"
    caches = {
        "CUDA_CACHE_PATH": cache / "cuda",
        "FLASHINFER_WORKSPACE_BASE": cache,
        "HF_HOME": cache / "huggingface",
        "HF_TOKEN_PATH": _hub_token(given),
        "MPLCONFIGDIR": cache / "matplotlib",
        "NUMBA_CACHE_DIR": cache / "numba",
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
        "TRITON_CACHE_DIR": cache / "triton",
        "VLLM_CACHE_ROOT": cache / "vllm",
        "VLLM_CONFIG_ROOT": cache / "vllm-config",
    }
    chosen = {name: given.get(name) or str(path) for name, path in caches.items()}
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary(home)))
    return {**chosen, **places, "XDG_CACHE_HOME": str(cache), "XDG_CONFIG_HOME": given.get("XDG_CONFIG_HOME") or str(cache / "config")}


def _hub_token(given: Mapping[str, str]) -> Path:
    cache = Path(given.get("XDG_CACHE_HOME") or Path(given.get("HOME") or "/") / ".cache")
    return Path(given.get("HF_HOME") or cache / "huggingface") / "token"


def tighten(home: Path) -> int:
    """Take every right of group and others from what a stack wrote below `home`; return how many entries had one.

    An earlier release left databases and logs readable by everybody. The home itself is closed too unless it holds entries that are not
    the stack's. Raises OSError for an entry of another user.
    """
    tightened = 0
    entries = list(os.scandir(home))
    for entry in entries:
        if entry.name in _OURS:
            tightened += sum(map(_close, _below(Path(entry.path))))
    if all(entry.name in _OURS for entry in entries):
        tightened += _close(home)
    return tightened


def empty_temporary(home: Path) -> None:
    """Remove what killed processes left among the temporary files. Call it while nothing of the stack runs."""
    folder = temporary(home)
    if folder.is_symlink() or folder.parent.is_symlink():
        return
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                yield Path(folder) / name


def _close(path: Path) -> bool:
    """Remove the rights of others from one entry. Links stay unchanged, as their rights have no effect; a vanished entry is ignored."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & _OTHERS:
            path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
            return True
    return False
