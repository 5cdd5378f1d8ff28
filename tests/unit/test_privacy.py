"""What a stack writes stays below its home and is closed to other users."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from core.errors import Refused
from infra.local import privacy
from infra.local.earlier_stack import only_one


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def written(home: Path, name: str, rights: int) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    path.chmod(rights)
    return path


def test_an_older_home_is_closed_to_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    database, log = written(home, "seatrial.db", 0o644), written(home, "logs/runner.log", 0o664)
    home.chmod(0o755)
    assert privacy.tighten(home) >= 3
    assert [mode(path) & 0o077 for path in (home, database, log, log.parent)] == [0, 0, 0, 0]
    assert privacy.tighten(home) == 0


def test_what_a_stack_did_not_write_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path, "mlflow.db", 0o644)
    theirs = written(tmp_path, "public_html/index.html", 0o644)
    tmp_path.chmod(0o755)
    privacy.tighten(tmp_path)
    assert (mode(theirs), mode(tmp_path), mode(tmp_path / "mlflow.db")) == (0o644, 0o755, 0o600)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = written(tmp_path, "outside", 0o644)
    (tmp_path / "home" / "logs").mkdir(parents=True)
    (tmp_path / "home" / "logs" / "link").symlink_to(outside)
    privacy.tighten(tmp_path / "home")
    assert mode(outside) == 0o644


def test_temporary_files_and_caches_are_below_the_home(tmp_path: Path) -> None:
    found = privacy.environ(tmp_path, {"HOME": "/home/ann", "TMPDIR": "/tmp", "XDG_CACHE_HOME": "/home/ann/.cache"})
    kept = {"HF_TOKEN_PATH"}
    assert [name for name, value in found.items() if name not in kept and not value.startswith(str(tmp_path))] == []
    assert found["TMPDIR"] == str(tmp_path / "run" / "tmp")
    assert found["HF_TOKEN_PATH"] == "/home/ann/.cache/huggingface/token"


def test_a_cache_that_somebody_chose_is_kept(tmp_path: Path) -> None:
    found = privacy.environ(tmp_path, {"HF_HOME": "/models/cache", "VLLM_CACHE_ROOT": "/models/vllm"})
    assert (found["HF_HOME"], found["VLLM_CACHE_ROOT"]) == ("/models/cache", "/models/vllm")
    assert found["HF_TOKEN_PATH"] == "/models/cache/token"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    written(tmp_path, "run/tmp/runner_storage/run/file", 0o600)
    os.mkfifo(tmp_path / "run" / "tmp" / "pipe")
    privacy.empty_temporary(tmp_path)
    assert list((tmp_path / "run" / "tmp").iterdir()) == []


def test_a_link_in_place_of_the_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tmp").symlink_to(elsewhere)
    privacy.empty_temporary(tmp_path)
    assert (elsewhere / "kept").read_text() == "mine"


@pytest.mark.parametrize("home", ["/", "~"])
def test_a_home_that_holds_other_files_is_refused(home: str) -> None:
    with pytest.raises(Refused, match="other files"), only_one(Path(home).expanduser()):
        pytest.fail("the home was taken")
