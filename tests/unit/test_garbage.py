"""Garbage collection: what is kept and why, what goes, and a submission that reuses weights at the worst moment."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.benchmarks import BenchmarkState
from core.endpoints import RolloutState
from core.errors import NotFound
from core.ids import BenchmarkId, Digest, EndpointName, VersionId
from core.submissions import SubmissionState
from core.versions import FileDigest
from registry.weights.folder import FolderWeights
from tasks import garbage
from tasks.garbage import Action, Found, collect
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.rows import open_rollout, put_submission
from tests.equipment.samples import CHAT, a_benchmark, a_request, a_version

DAY_S = 86_400.0
OLD_S = 40 * DAY_S
VERSIONS = tuple(VersionId(letter * 64) for letter in "abcdef")


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        vars(yard.here).update(weights=FolderWeights(tmp_path / "weights", yard.clock))
        yield yard


def unfenced() -> None:
    """A lease that is never lost."""


def tensors(version: VersionId) -> Digest:
    return Digest(hashlib.sha256(version.encode()).hexdigest())


def stored(yard: BenchYard, version: VersionId) -> VersionId:
    """Enter a version and store both of its bundles."""
    yard.records.versions.put(a_version(id=version, commit=version[:40], tensors=tensors(version), created_at=yard.clock.now()))
    for digest in (Digest(version), tensors(version)):
        source = yard.here.settings.home / "source"
        source.mkdir(exist_ok=True)
        (source / "file").write_bytes(digest.encode())
        file = FileDigest("file", 64, Digest(hashlib.sha256(digest.encode()).hexdigest()))
        yard.here.weights.stage(digest, source, [file])
        yard.here.weights.publish(digest)
    return version


def promoted(yard: BenchYard, version: VersionId) -> None:
    """Let CHAT serve a version from now on."""
    yard.records.endpoints.ensure(CHAT, yard.clock.now())
    number = len(yard.records.rollouts.find(limit=1000))
    row = open_rollout(yard.records, id=f"ro-{number}", candidate=version, started_at=yard.clock.now())
    yard.records.rollouts.store(replace(row, state=RolloutState.PROMOTED, ended_at=yard.clock.now()))


def verdicts(yard: BenchYard) -> dict[str, Found]:
    return {found.name: found for found in garbage.plan_weights(yard.here)}


def collected(yard: BenchYard) -> dict[str, Action]:
    return {found.name: found.action for found in collect(yard.here, "weights", unfenced)}


def there(yard: BenchYard, version: VersionId) -> bool:
    try:
        return bool(yard.here.weights.open(Digest(version)) and yard.here.weights.open(tensors(version)))
    except NotFound:
        return False


def test_weights_that_nothing_needs_are_withdrawn_and_deleted_after_the_grace_period(yard: BenchYard) -> None:
    version = stored(yard, VERSIONS[0])
    assert collected(yard) == {}, "used a moment ago"
    yard.clock.wait(OLD_S)
    assert collected(yard) == {version: Action.WITHDRAW, tensors(version): Action.WITHDRAW}
    yard.clock.wait(3600)
    assert collected(yard) == {}
    assert verdicts(yard)[version].why == "withdrawn 1.0 hours ago, grace 24"
    yard.clock.wait(DAY_S)
    assert collected(yard) == {version: Action.DELETE, tensors(version): Action.DELETE}
    assert verdicts(yard) == {}


def test_what_serves_and_the_last_versions_that_served_are_kept_whatever_their_age(yard: BenchYard) -> None:
    for version in VERSIONS[:5]:
        promoted(yard, stored(yard, version))
        yard.clock.wait(OLD_S)
    collected(yard)
    assert [there(yard, version) for version in VERSIONS[:5]] == [False, False, True, True, True]
    assert verdicts(yard)[VERSIONS[4]].why == "chat serves it"
    assert verdicts(yard)[VERSIONS[3]].why == "chat may go back to it"


def submitted(yard: BenchYard, version: VersionId) -> None:
    row = yard.records.submissions.create(a_request(), yard.records.access.principal("ann", 1.0).id, yard.clock.now())
    put_submission(yard.records, row.id, yard.clock.now(), state=SubmissionState.RUNNING, version=version)
    yard.clock.wait(OLD_S)


def tried(yard: BenchYard, version: VersionId) -> None:
    yard.records.endpoints.ensure(CHAT, yard.clock.now())
    open_rollout(yard.records, candidate=version)
    yard.clock.wait(OLD_S)


def asked(yard: BenchYard, version: VersionId) -> None:
    yard.records.benchmarks.create(a_benchmark(version=version))
    yard.clock.wait(OLD_S)


def runs(yard: BenchYard, version: VersionId) -> None:
    from tests.equipment.kube_env import a_spec  # noqa: PLC0415

    yard.engines.apply(a_spec(0, version=version))


@pytest.mark.parametrize("need", [submitted, tried, asked, runs])
def test_weights_that_anything_under_way_needs_are_kept(yard: BenchYard, need: Callable[[BenchYard, VersionId], None]) -> None:
    version = stored(yard, VERSIONS[0])
    yard.clock.wait(OLD_S)
    need(yard, version)
    assert collected(yard) == {}
    assert there(yard, version)


def test_tensors_that_two_versions_share_are_kept_for_the_one_that_serves(yard: BenchYard) -> None:
    serving, other = stored(yard, VERSIONS[0]), VERSIONS[1]
    promoted(yard, serving)
    yard.records.versions.put(a_version(id=other, commit=other[:40], tensors=tensors(serving), created_at=1.0))
    yard.clock.wait(OLD_S)
    collected(yard)
    assert there(yard, serving)


def test_a_bundle_that_no_version_rests_on_goes_after_the_grace_period(yard: BenchYard, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    digest = Digest("7" * 64)
    yard.here.weights.stage(digest, tmp_path, [FileDigest("file", 1, Digest(hashlib.sha256(b"x").hexdigest()))])
    assert collected(yard) == {}
    yard.clock.wait(2 * DAY_S)
    assert collected(yard) == {digest: Action.WITHDRAW}


def test_withdrawn_weights_that_are_needed_again_are_taken_back(yard: BenchYard) -> None:
    version = stored(yard, VERSIONS[0])
    yard.clock.wait(OLD_S)
    collected(yard)
    assert not there(yard, version)
    submitted(yard, version)
    assert set(collected(yard).values()) == {Action.TAKE_BACK}
    assert there(yard, version)


def test_a_submission_that_enters_its_version_right_after_a_withdrawal_gets_the_weights_back(yard: BenchYard) -> None:
    version = stored(yard, VERSIONS[0])
    yard.clock.wait(OLD_S)
    real = yard.here.weights.withdraw

    def withdraw(digest: Digest) -> bool:
        done = real(digest)
        submitted(yard, version)
        return done

    vars(yard.here.weights).update(withdraw=withdraw)
    assert collected(yard) == {}
    assert there(yard, version)


def test_a_submission_that_reclaims_within_the_grace_period_keeps_the_weights_from_the_purge(yard: BenchYard) -> None:
    version = stored(yard, VERSIONS[0])
    yard.clock.wait(OLD_S)
    collected(yard)
    yard.clock.wait(2 * DAY_S)
    real = yard.here.weights.purge

    def purge(digest: Digest, before: float) -> bool:
        yard.here.weights.reclaim(digest)
        return real(digest, before)

    vars(yard.here.weights).update(purge=purge)
    assert collected(yard) == {}
    assert there(yard, version)


def test_a_second_installation_removes_nothing_from_the_store_of_another(yard: BenchYard) -> None:
    version = stored(yard, VERSIONS[0])
    yard.here.weights.claim("f" * 32, take_over=True)
    yard.clock.wait(OLD_S)
    assert collected(yard) == {}
    assert "belongs to installation ffffffff" in verdicts(yard)[version].why
    yard.here.weights.claim(yard.records.installation.id(), take_over=True)
    assert collected(yard) == {version: Action.WITHDRAW, tensors(version): Action.WITHDRAW}


def test_a_dry_run_changes_nothing(yard: BenchYard) -> None:
    version = stored(yard, VERSIONS[0])
    yard.clock.wait(OLD_S)
    assert [found.action for found in garbage.plan_weights(yard.here)] == [Action.WITHDRAW, Action.WITHDRAW]
    assert there(yard, version)


def work(yard: BenchYard, name: str, age_s: float) -> Path:
    folder = yard.here.settings.home / name
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(b"x" * 10)
    for path in (folder / "part", folder):
        os.utime(path, (yard.clock.now() - age_s,) * 2)
    return folder


def test_downloads_and_scratch_go_when_nothing_has_written_to_them_for_a_day(yard: BenchYard) -> None:
    old, new, scratch = work(yard, "downloads/a", 2 * DAY_S), work(yard, "downloads/b", 60), work(yard, "scratch/c", 2 * DAY_S)
    gone = [(found.name, found.bytes) for found in collect(yard.here, "work", unfenced)]
    assert [name for name, _ in gone] == ["downloads/a", "scratch/c"]
    assert (old.exists(), new.exists(), scratch.exists()) == (False, True, False)


def test_a_download_that_a_process_holds_is_left(yard: BenchYard) -> None:
    folder = work(yard, "downloads/a", 2 * DAY_S)
    with folder.with_name("a.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list(collect(yard.here, "work", unfenced)) == []
    assert folder.exists()


def test_baselines_of_what_serves_outlive_every_other_benchmark(yard: BenchYard) -> None:
    promoted(yard, stored(yard, VERSIONS[0]))
    done = {"version": VERSIONS[0], "state": BenchmarkState.DONE}
    for number in range(4):
        yard.records.benchmarks.create(a_benchmark(number, ended_at=yard.clock.now() + number, **done))
    yard.records.benchmarks.create(a_benchmark(9, version=VERSIONS[1], state=BenchmarkState.FAILED, ended_at=yard.clock.now()))
    yard.records.benchmarks.create(a_benchmark(8, version=VERSIONS[1]))
    yard.clock.wait(200 * DAY_S)
    gone = {found.name for found in collect(yard.here, "benchmarks", unfenced)}
    assert gone == {"bm-1", "bm-2", "bm-9"}
    assert {row.id for row in yard.records.benchmarks.find()} == {"bm-0", "bm-3", "bm-8"}


def test_answers_leave_this_machine_once_mlflow_has_them(yard: BenchYard) -> None:
    fields = {"state": BenchmarkState.DONE, "ended_at": yard.clock.now()}
    kept, gone = BenchmarkId("bm-1"), BenchmarkId("bm-2")
    yard.records.benchmarks.create(a_benchmark(1, **fields))
    yard.records.benchmarks.create(a_benchmark(2, rows_uri="mlflow-run:x/rows.jsonl.gz", **fields))
    for benchmark in (kept, gone):
        yard.answers.pack(benchmark, [])
    yard.clock.wait(31 * DAY_S)
    assert [found.name for found in collect(yard.here, "answers", unfenced)] == [gone]
    assert (yard.answers.packed(kept).exists(), yard.answers.packed(gone).exists()) == (True, False)


def test_an_endpoint_that_was_removed_keeps_no_weights(yard: BenchYard) -> None:
    promoted(yard, stored(yard, VERSIONS[0]))
    yard.records.endpoints.remove(EndpointName("chat"), yard.clock.now())
    yard.clock.wait(OLD_S)
    collected(yard)
    assert not there(yard, VERSIONS[0])
