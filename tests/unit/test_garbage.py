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
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.rows import open_rollout, put_submission
from tests.equipment.samples import CHAT, a_benchmark, a_request, a_version

DAY_S = 86_400.0
OLD_S = 40 * DAY_S
VERSIONS = tuple(VersionId(letter * 64) for letter in "abcdef")


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        vars(env.here).update(weights=FolderWeights(tmp_path / "weights", env.clock))
        yield env


def unfenced() -> None:
    """A lease that is never lost."""


def tensors(version: VersionId) -> Digest:
    return Digest(hashlib.sha256(version.encode()).hexdigest())


def stored(env: BenchEnv, version: VersionId) -> VersionId:
    """Enter a version and store both of its bundles."""
    env.records.versions.put(a_version(id=version, commit=version[:40], tensors=tensors(version), created_at=env.clock.now()))
    for digest in (Digest(version), tensors(version)):
        source = env.here.settings.home / "source"
        source.mkdir(exist_ok=True)
        (source / "file").write_bytes(digest.encode())
        file = FileDigest("file", 64, Digest(hashlib.sha256(digest.encode()).hexdigest()))
        env.here.weights.stage(digest, source, [file])
        env.here.weights.publish(digest)
    return version


def promoted(env: BenchEnv, version: VersionId) -> None:
    """Let CHAT serve a version from now on."""
    env.records.endpoints.ensure(CHAT, env.clock.now())
    number = len(env.records.rollouts.find(limit=1000))
    row = open_rollout(env.records, id=f"ro-{number}", candidate=version, started_at=env.clock.now())
    env.records.rollouts.store(replace(row, state=RolloutState.PROMOTED, ended_at=env.clock.now()))


def verdicts(env: BenchEnv) -> dict[str, Found]:
    return {found.name: found for found in garbage.plan_weights(env.here)}


def collected(env: BenchEnv) -> dict[str, Action]:
    return {found.name: found.action for found in collect(env.here, "weights", unfenced)}


def there(env: BenchEnv, version: VersionId) -> bool:
    try:
        return bool(env.here.weights.open(Digest(version)) and env.here.weights.open(tensors(version)))
    except NotFound:
        return False


def test_weights_that_nothing_needs_are_withdrawn_and_deleted_after_the_grace_period(env: BenchEnv) -> None:
    version = stored(env, VERSIONS[0])
    assert collected(env) == {}, "used a moment ago"
    env.clock.wait(OLD_S)
    assert collected(env) == {version: Action.WITHDRAW, tensors(version): Action.WITHDRAW}
    env.clock.wait(3600)
    assert collected(env) == {}
    assert verdicts(env)[version].why == "withdrawn 1.0 hours ago, grace 24"
    env.clock.wait(DAY_S)
    assert collected(env) == {version: Action.DELETE, tensors(version): Action.DELETE}
    assert verdicts(env) == {}


def test_what_serves_and_the_last_versions_that_served_are_kept_whatever_their_age(env: BenchEnv) -> None:
    for version in VERSIONS[:5]:
        promoted(env, stored(env, version))
        env.clock.wait(OLD_S)
    collected(env)
    assert [there(env, version) for version in VERSIONS[:5]] == [False, False, True, True, True]
    assert verdicts(env)[VERSIONS[4]].why == "chat serves it"
    assert verdicts(env)[VERSIONS[3]].why == "chat may go back to it"


def submitted(env: BenchEnv, version: VersionId) -> None:
    row = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    put_submission(env.records, row.id, env.clock.now(), state=SubmissionState.RUNNING, version=version)
    env.clock.wait(OLD_S)


def tried(env: BenchEnv, version: VersionId) -> None:
    env.records.endpoints.ensure(CHAT, env.clock.now())
    open_rollout(env.records, candidate=version)
    env.clock.wait(OLD_S)


def asked(env: BenchEnv, version: VersionId) -> None:
    env.records.benchmarks.create(a_benchmark(version=version))
    env.clock.wait(OLD_S)


def runs(env: BenchEnv, version: VersionId) -> None:
    from tests.equipment.kube_env import a_spec  # noqa: PLC0415

    env.engines.apply(a_spec(0, version=version))


@pytest.mark.parametrize("need", [submitted, tried, asked, runs])
def test_weights_that_anything_under_way_needs_are_kept(env: BenchEnv, need: Callable[[BenchEnv, VersionId], None]) -> None:
    version = stored(env, VERSIONS[0])
    env.clock.wait(OLD_S)
    need(env, version)
    assert collected(env) == {}
    assert there(env, version)


def test_tensors_that_two_versions_share_are_kept_for_the_one_that_serves(env: BenchEnv) -> None:
    serving, other = stored(env, VERSIONS[0]), VERSIONS[1]
    promoted(env, serving)
    env.records.versions.put(a_version(id=other, commit=other[:40], tensors=tensors(serving), created_at=1.0))
    env.clock.wait(OLD_S)
    collected(env)
    assert there(env, serving)


def test_a_bundle_that_no_version_rests_on_goes_after_the_grace_period(env: BenchEnv, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    digest = Digest("7" * 64)
    env.here.weights.stage(digest, tmp_path, [FileDigest("file", 1, Digest(hashlib.sha256(b"x").hexdigest()))])
    assert collected(env) == {}
    env.clock.wait(2 * DAY_S)
    assert collected(env) == {digest: Action.WITHDRAW}


def test_withdrawn_weights_that_are_needed_again_are_taken_back(env: BenchEnv) -> None:
    version = stored(env, VERSIONS[0])
    env.clock.wait(OLD_S)
    collected(env)
    assert not there(env, version)
    submitted(env, version)
    assert set(collected(env).values()) == {Action.TAKE_BACK}
    assert there(env, version)


def test_a_submission_that_enters_its_version_right_after_a_withdrawal_gets_the_weights_back(env: BenchEnv) -> None:
    version = stored(env, VERSIONS[0])
    env.clock.wait(OLD_S)
    real = env.here.weights.withdraw

    def withdraw(digest: Digest) -> bool:
        done = real(digest)
        submitted(env, version)
        return done

    vars(env.here.weights).update(withdraw=withdraw)
    assert collected(env) == {}
    assert there(env, version)


def test_a_submission_that_reclaims_within_the_grace_period_keeps_the_weights_from_the_purge(env: BenchEnv) -> None:
    version = stored(env, VERSIONS[0])
    env.clock.wait(OLD_S)
    collected(env)
    env.clock.wait(2 * DAY_S)
    real = env.here.weights.purge

    def purge(digest: Digest, before: float) -> bool:
        env.here.weights.reclaim(digest)
        return real(digest, before)

    vars(env.here.weights).update(purge=purge)
    assert collected(env) == {}
    assert there(env, version)


def test_a_second_installation_removes_nothing_from_the_store_of_another(env: BenchEnv) -> None:
    version = stored(env, VERSIONS[0])
    env.here.weights.claim("f" * 32, take_over=True)
    env.clock.wait(OLD_S)
    assert collected(env) == {}
    assert "belongs to installation ffffffff" in verdicts(env)[version].why
    env.here.weights.claim(env.records.installation.id(), take_over=True)
    assert collected(env) == {version: Action.WITHDRAW, tensors(version): Action.WITHDRAW}


def test_a_dry_run_changes_nothing(env: BenchEnv) -> None:
    version = stored(env, VERSIONS[0])
    env.clock.wait(OLD_S)
    assert [found.action for found in garbage.plan_weights(env.here)] == [Action.WITHDRAW, Action.WITHDRAW]
    assert there(env, version)


def work(env: BenchEnv, name: str, age_s: float) -> Path:
    folder = env.here.settings.home / name
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(b"x" * 10)
    for path in (folder / "part", folder):
        os.utime(path, (env.clock.now() - age_s,) * 2)
    return folder


def test_downloads_and_scratch_go_when_nothing_has_written_to_them_for_a_day(env: BenchEnv) -> None:
    old, new, scratch = work(env, "downloads/a", 2 * DAY_S), work(env, "downloads/b", 60), work(env, "scratch/c", 2 * DAY_S)
    gone = [(found.name, found.bytes) for found in collect(env.here, "work", unfenced)]
    assert [name for name, _ in gone] == ["downloads/a", "scratch/c"]
    assert (old.exists(), new.exists(), scratch.exists()) == (False, True, False)


def test_a_download_that_a_process_holds_is_left(env: BenchEnv) -> None:
    folder = work(env, "downloads/a", 2 * DAY_S)
    with folder.with_name("a.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list(collect(env.here, "work", unfenced)) == []
    assert folder.exists()


def test_baselines_of_what_serves_outlive_every_other_benchmark(env: BenchEnv) -> None:
    promoted(env, stored(env, VERSIONS[0]))
    done = {"version": VERSIONS[0], "state": BenchmarkState.DONE}
    for number in range(4):
        env.records.benchmarks.create(a_benchmark(number, ended_at=env.clock.now() + number, **done))
    env.records.benchmarks.create(a_benchmark(9, version=VERSIONS[1], state=BenchmarkState.FAILED, ended_at=env.clock.now()))
    env.records.benchmarks.create(a_benchmark(8, version=VERSIONS[1]))
    env.clock.wait(200 * DAY_S)
    gone = {found.name for found in collect(env.here, "benchmarks", unfenced)}
    assert gone == {"bm-1", "bm-2", "bm-9"}
    assert {row.id for row in env.records.benchmarks.find()} == {"bm-0", "bm-3", "bm-8"}


def test_answers_leave_this_machine_once_mlflow_has_them(env: BenchEnv) -> None:
    fields = {"state": BenchmarkState.DONE, "ended_at": env.clock.now()}
    kept, gone = BenchmarkId("bm-1"), BenchmarkId("bm-2")
    env.records.benchmarks.create(a_benchmark(1, **fields))
    env.records.benchmarks.create(a_benchmark(2, rows_uri="mlflow-run:x/rows.jsonl.gz", **fields))
    for benchmark in (kept, gone):
        env.answers.pack(benchmark, [])
    env.clock.wait(31 * DAY_S)
    assert [found.name for found in collect(env.here, "answers", unfenced)] == [gone]
    assert (env.answers.packed(kept).exists(), env.answers.packed(gone).exists()) == (True, False)


def test_an_endpoint_that_was_removed_keeps_no_weights(env: BenchEnv) -> None:
    promoted(env, stored(env, VERSIONS[0]))
    env.records.endpoints.remove(EndpointName("chat"), env.clock.now())
    env.clock.wait(OLD_S)
    collected(env)
    assert not there(env, VERSIONS[0])
