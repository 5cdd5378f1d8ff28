"""Folders that are not what they should be, or change while they are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import Fault, Refused
from core.versions import ModelRef, ResolvedModel
from registry.hub.folder import FolderHub

WEIGHTS = bytes(range(256)) * 12_000


def ignore(_done: int, _total: int) -> None:
    """Progress that nobody wants."""


def folder_of(tmp_path: Path) -> tuple[Path, Callable[[], ResolvedModel]]:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    return folder, lambda: FolderHub().resolve(ModelRef(str(folder)))


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    (folder / "token.json").symlink_to("/etc/hostname")
    with pytest.raises(Refused) as refusal:
        resolve()
    assert refusal.value.reason == "symlink_outside"
    assert "token.json" in str(refusal.value)


def test_a_link_to_a_folder_outside_is_refused(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    (folder / "etc").symlink_to("/etc")
    with pytest.raises(Refused) as refusal:
        resolve()
    assert refusal.value.reason == "symlink_outside"


def test_a_link_within_the_folder_is_a_file_of_its_own(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    (folder / "generation_config.json").symlink_to("config.json")
    model = resolve()
    FolderHub().download(model, model.files, tmp_path / "target", ignore)
    assert not (tmp_path / "target/generation_config.json").is_symlink()
    assert (tmp_path / "target/generation_config.json").read_bytes() == b"{}"


def test_a_pipe_in_the_folder_is_refused_and_never_opened(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(Refused) as refusal:
        resolve()
    assert refusal.value.reason == "unsafe_file"


def test_a_folder_that_was_changed_since_it_was_submitted_is_refused(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    model = resolve()
    (folder / "config.json").write_bytes(b'{"changed": true}')
    with pytest.raises(Refused) as refusal:
        FolderHub().download(model, model.files, tmp_path / "target", ignore)
    assert refusal.value.reason == "source_changed"


def rewrite(path: Path) -> None:
    path.write_bytes(b'{"step": 2}')


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("change", [rewrite, remove])
def test_a_folder_that_is_changed_while_it_is_read_is_refused(tmp_path: Path, name: str, change: Callable[[Path], None]) -> None:
    folder, resolve = folder_of(tmp_path)
    (folder / "tokenizer.json").write_bytes(b"{}")
    model = resolve()
    with pytest.raises(Refused) as refusal:
        FolderHub().download(model, model.files, tmp_path / "target", lambda _done, _total: change(folder / name))
    assert refusal.value.reason == "source_changed"


def test_a_folder_that_is_written_to_afterwards_does_not_change_what_was_checked(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    model = resolve()
    (read,) = FolderHub().download(model, model.files, tmp_path / "target", ignore)
    with (folder / "config.json").open("r+b") as file:  # as training code saves: the same file, other bytes
        file.write(b"[]")
    assert hashlib.sha256((tmp_path / "target/config.json").read_bytes()).hexdigest() == read.sha256


def test_a_folder_is_cancelled_within_a_file_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    folder, resolve = folder_of(tmp_path)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    model = resolve()

    def cancel(done: int, total: int) -> None:
        assert done < total
        raise Cancelled

    with pytest.raises(Cancelled):
        FolderHub().download(model, model.files, tmp_path / "target", cancel)
    assert list((tmp_path / "target").iterdir()) == []


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    (folder / os.fsdecode(b"caf\xe9.json")).write_bytes(b"{}")
    with pytest.raises(Refused) as refusal:
        resolve()
    assert refusal.value.reason == "unsafe_path"
    str(refusal.value).encode()


def test_a_folder_on_another_disk_is_copied(tmp_path: Path, small_disk: Path) -> None:
    _, resolve = folder_of(tmp_path)
    model = resolve()
    (read,) = FolderHub().download(model, model.files, small_disk / "target", ignore)
    assert read.sha256 == hashlib.sha256(b"{}").hexdigest()


def test_a_folder_that_does_not_fit_on_the_other_disk_is_a_fault_with_the_numbers(tmp_path: Path, small_disk: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    model = resolve()
    with pytest.raises(Fault, match=r"disk full: .*needs 3\.1 MB"):
        FolderHub().download(model, model.files, small_disk / "target", ignore)


def test_what_is_hidden_in_a_folder_is_not_part_of_the_model(tmp_path: Path) -> None:
    folder, resolve = folder_of(tmp_path)
    (folder / ".env").write_text("secret")
    (folder / ".link").symlink_to("/etc/hostname")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("secret")
    assert [file.path for file in resolve().files] == ["config.json"]
