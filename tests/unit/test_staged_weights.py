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
from tasks.prepare import model_import
from tasks.reconcile import sweep_leftovers
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import a_benchmark, a_request, a_version

VERSION, OTHER = VersionId("a" * 64), VersionId("b" * 64)
TENSORS = Digest("c" * 64)
"""Both versions have the same tensors."""


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        vars(env.here).update(weights=FolderWeights(tmp_path / "weights", env.clock))
        for version in (VERSION, OTHER):
            env.records.versions.put(a_version(id=version, commit=version[:40], tensors=TENSORS, created_at=env.clock.now()))
        for digest in (Digest(VERSION), TENSORS):
            stage(env, digest)
        yield env


def stage(env: BenchEnv, digest: Digest) -> None:
    source = env.here.settings.home / "source"
    source.mkdir(exist_ok=True)
    (source / "file").write_bytes(b"content")
    env.here.weights.stage(digest, source, [FileDigest("file", 7, Digest(hashlib.sha256(b"content").hexdigest()))])


def submission(env: BenchEnv, version: VersionId | None) -> Submission:
    made = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    changes: dict[str, Any] = {"version": version} if version else {}
    return put_submission(env.records, made.id, env.clock.now(), state=SubmissionState.RUNNING, **changes)


def stored(env: BenchEnv) -> set[Digest]:
    return {bundle.digest for bundle in env.here.weights.list()}


def unfenced() -> None:
    """A lease that is never lost."""


def test_what_a_refused_submission_staged_is_removed(env: BenchEnv) -> None:
    clear_away(env.records, model_import(), submission(env, VERSION))
    assert stored(env) == set()
    assert env.here.weights.leftovers() == ()


def test_tensors_that_another_open_submission_uses_stay(env: BenchEnv) -> None:
    submission(env, OTHER)
    clear_away(env.records, model_import(), submission(env, VERSION))
    assert stored(env) == {TENSORS}


def test_nothing_goes_while_a_submission_has_no_version_yet(env: BenchEnv) -> None:
    submission(env, None)
    clear_away(env.records, model_import(), submission(env, VERSION))
    assert stored(env) == {VERSION, TENSORS}


def test_a_submission_that_begins_during_the_removal_finds_its_tensors(env: BenchEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = submission(env, VERSION)
    withdraw = env.here.weights.withdraw

    def meanwhile(digest: Digest) -> bool:
        hidden = withdraw(digest)
        if digest == TENSORS:
            submission(env, OTHER)
        return hidden

    monkeypatch.setattr(env.here.weights, "withdraw", meanwhile)
    clear_away(env.records, model_import(), ended)
    assert env.here.weights.open(TENSORS).files


def test_published_weights_stay(env: BenchEnv) -> None:
    env.here.weights.publish(TENSORS)
    clear_away(env.records, model_import(), submission(env, VERSION))
    assert stored(env) == {TENSORS}
    with pytest.raises(NotFound):
        env.here.weights.open(Digest(VERSION))


def test_the_sweep_removes_what_killed_work_left_but_nothing_that_a_process_holds(env: BenchEnv) -> None:
    downloads = env.here.settings.downloads
    for name in ("left", "held"):
        (downloads / name).mkdir(parents=True)
    with (downloads / "held.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert len(sweep_leftovers(env.here, unfenced)) == 2
        assert sorted(path.name for path in downloads.iterdir()) == ["held", "held.lock"]
    assert stored(env) == set()


def test_the_sweep_leaves_scratch_to_a_running_benchmark(env: BenchEnv) -> None:
    cell = env.here.settings.scratch / "cell"
    cell.mkdir(parents=True)
    env.records.benchmarks.create(a_benchmark(version=VERSION))
    sweep_leftovers(env.here, unfenced)
    assert cell.is_dir()


def test_nothing_is_removed_from_the_store_of_another_installation(env: BenchEnv) -> None:
    env.here.weights.claim("f" * 32)
    clear_away(env.records, model_import(), submission(env, VERSION))
    assert sweep_leftovers(env.here, unfenced) == ()
    assert stored(env) == {VERSION, TENSORS}


def test_the_sweep_goes_on_when_files_vanish_under_it(env: BenchEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission that ends removes its own download and lock while reconcile lists them."""
    downloads = env.here.settings.downloads
    (downloads / "left").mkdir(parents=True)
    (downloads / "ended.lock").touch()
    measure = work._item

    def vanishing(name: str, path: Path) -> work.WorkItem:
        if name == "downloads/ended.lock":
            path.unlink(missing_ok=True)
        return measure(name, path)

    monkeypatch.setattr(work, "_item", vanishing)
    sweep_leftovers(env.here, unfenced)
    assert list(downloads.iterdir()) == []
