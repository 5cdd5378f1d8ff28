"""Staged weights of refused and killed submissions: what is removed, and a submission that reuses them at the worst moment."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import NotFound
from core.ids import Digest, VersionId
from core.submissions import Submission, SubmissionState
from core.versions import FileDigest
from registry import work
from registry.weights.folder import FolderWeights
from tasks.finish import clear_away
from tasks.reconcile import sweep_leftovers
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.rows import put_submission
from tests.equipment.samples import a_benchmark, a_request, a_version

VERSION, OTHER = VersionId("a" * 64), VersionId("b" * 64)
TENSORS = Digest("c" * 64)
"""Both versions have the same tensors."""


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        vars(yard.here).update(weights=FolderWeights(tmp_path / "weights", yard.clock))
        for version in (VERSION, OTHER):
            yard.records.versions.put(a_version(id=version, commit=version[:40], tensors=TENSORS, created_at=yard.clock.now()))
        for digest in (Digest(VERSION), TENSORS):
            stage(yard, digest)
        yield yard


def stage(yard: BenchYard, digest: Digest) -> None:
    source = yard.here.settings.home / "source"
    source.mkdir(exist_ok=True)
    (source / "file").write_bytes(b"content")
    yard.here.weights.stage(digest, source, [FileDigest("file", 7, Digest(hashlib.sha256(b"content").hexdigest()))])


def submission(yard: BenchYard, version: VersionId | None) -> Submission:
    made = yard.records.submissions.create(a_request(), yard.records.access.principal("ann", 1.0).id, yard.clock.now())
    changes: dict[str, Any] = {"version": version} if version else {}
    return put_submission(yard.records, made.id, yard.clock.now(), state=SubmissionState.RUNNING, **changes)


def stored(yard: BenchYard) -> set[Digest]:
    return {bundle.digest for bundle in yard.here.weights.list()}


def unfenced() -> None:
    """A lease that is never lost."""


def test_what_a_refused_submission_staged_is_removed(yard: BenchYard) -> None:
    clear_away(yard.here, submission(yard, VERSION))
    assert stored(yard) == set()
    assert yard.here.weights.leftovers() == ()


def test_tensors_that_another_open_submission_uses_stay(yard: BenchYard) -> None:
    submission(yard, OTHER)
    clear_away(yard.here, submission(yard, VERSION))
    assert stored(yard) == {TENSORS}


def test_nothing_goes_while_a_submission_has_no_version_yet(yard: BenchYard) -> None:
    submission(yard, None)
    clear_away(yard.here, submission(yard, VERSION))
    assert stored(yard) == {VERSION, TENSORS}


def test_a_submission_that_begins_during_the_removal_finds_its_tensors(yard: BenchYard, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = submission(yard, VERSION)
    withdraw = yard.here.weights.withdraw

    def meanwhile(digest: Digest) -> bool:
        hidden = withdraw(digest)
        if digest == TENSORS:
            submission(yard, OTHER)
        return hidden

    monkeypatch.setattr(yard.here.weights, "withdraw", meanwhile)
    clear_away(yard.here, ended)
    assert yard.here.weights.open(TENSORS).files


def test_published_weights_stay(yard: BenchYard) -> None:
    yard.here.weights.publish(TENSORS)
    clear_away(yard.here, submission(yard, VERSION))
    assert stored(yard) == {TENSORS}
    with pytest.raises(NotFound):
        yard.here.weights.open(Digest(VERSION))


def test_the_sweep_removes_what_killed_work_left_but_nothing_that_a_process_holds(yard: BenchYard) -> None:
    downloads = yard.here.settings.downloads
    for name in ("left", "held"):
        (downloads / name).mkdir(parents=True)
    with (downloads / "held.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert len(sweep_leftovers(yard.here, unfenced)) == 2
        assert sorted(path.name for path in downloads.iterdir()) == ["held", "held.lock"]
    assert stored(yard) == set()


def test_the_sweep_leaves_scratch_to_a_running_benchmark(yard: BenchYard) -> None:
    cell = yard.here.settings.scratch / "cell"
    cell.mkdir(parents=True)
    yard.records.benchmarks.create(a_benchmark(version=VERSION))
    sweep_leftovers(yard.here, unfenced)
    assert cell.is_dir()


def test_nothing_is_removed_from_the_store_of_another_installation(yard: BenchYard) -> None:
    yard.here.weights.claim("f" * 32)
    clear_away(yard.here, submission(yard, VERSION))
    assert sweep_leftovers(yard.here, unfenced) == ()
    assert stored(yard) == {VERSION, TENSORS}


def test_the_sweep_goes_on_when_files_vanish_under_it(yard: BenchYard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission that ends removes its own download and lock while reconcile lists them."""
    downloads = yard.here.settings.downloads
    (downloads / "left").mkdir(parents=True)
    (downloads / "ended.lock").touch()
    measure = work._item

    def vanishing(name: str, path: Path) -> work.WorkItem:
        if name == "downloads/ended.lock":
            path.unlink(missing_ok=True)
        return measure(name, path)

    monkeypatch.setattr(work, "_item", vanishing)
    sweep_leftovers(yard.here, unfenced)
    assert list(downloads.iterdir()) == []
