"""Names that stay inside, and writes that are whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from core.errors import Fault, Refused
from registry.files import disk_errors, inside, require_room, scratch_beside, write_atomic


@given(st.text(alphabet="ab./\\\0 ", max_size=12))
def test_whatever_the_name_its_path_lies_below_the_folder(name: str) -> None:
    folder = Path("/srv/models")
    try:
        path = inside(folder, name)
    except Refused:
        event("refused")
    else:
        assert path.is_relative_to(folder)
        assert path != folder
        assert path.relative_to(folder).as_posix() == name


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")

    def interrupted() -> None:
        with scratch_beside(tmp_path / "file") as scratch:
            scratch.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_as_such(number: int) -> None:
    with pytest.raises(Fault, match="disk full while storing"), disk_errors("storing"):
        raise OSError(number, "No space left")


def test_missing_rights_are_a_fault_that_says_whose_folder_it_must_be() -> None:
    with pytest.raises(Fault, match="belongs to the platform's user"), disk_errors("storing"):
        raise PermissionError(errno.EACCES, "Permission denied", "/srv")


def test_room_is_asked_for_in_numbers(tmp_path: Path) -> None:
    require_room(tmp_path, 1, "a model")
    with pytest.raises(Fault, match=r"a model needs 1000000000000\.0 MB, .* MB free"):
        require_room(tmp_path, 10**18, "a model")
