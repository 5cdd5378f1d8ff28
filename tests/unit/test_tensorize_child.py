"""The platform's end of the tensorizer's process. Scripts take the place of the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import Refused, Transient
from registry.tensorize import tensorize
from serving.engines.programs import SpawnedPrograms


def programs(folder: Path, script: str) -> SpawnedPrograms:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o700)
    return SpawnedPrograms(str(file))


def unseen(_part: float, _message: str) -> None:
    pass


def test_a_refusal_after_more_errors_than_a_pipe_holds_is_read(tmp_path: Path) -> None:
    much, told = "head -c 300000 /dev/zero | tr '\\0' x >&2", """echo '{"what": "tensor a is broken", "hint": "upload it"}' >&2"""
    script = f"{much}; echo >&2; {told}; exit 3"
    with pytest.raises(Refused, match="tensor a is broken"):
        tensorize(tmp_path, tmp_path / "out", programs(tmp_path, script), progress=unseen)
    assert not (tmp_path / "out").exists()


def test_a_child_that_goes_on_for_ever_is_ended_at_the_limit(tmp_path: Path) -> None:
    with pytest.raises(Transient, match=r"took longer than 0\.2 s"):
        tensorize(tmp_path, tmp_path / "out", programs(tmp_path, "exec sleep 600"), progress=unseen, limit_s=0.2)


def test_progress_is_the_part_of_the_bytes(tmp_path: Path) -> None:
    seen: list[float] = []
    script = """echo '{"event": "progress", "bytes": 1, "bytes_total": 4}'; exit 3"""
    with pytest.raises(Refused):
        tensorize(tmp_path, tmp_path / "out", programs(tmp_path, script), progress=lambda part, _message: seen.append(part))
    assert seen == [0.25]
