"""WeightsStore when several processes, or machines, are at the same bundle."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import Fault
from core.ids import Digest
from core.versions import FileDigest
from registry.weights.folder import FolderWeights
from registry.weights.s3 import S3Weights
from tests.equipment.s3_server import S3Server

ONE = Digest("1" * 64)
CONTENT = {"a": b"first" * 1000, "b": b"second" * 100_000, "c": b"third" * 1000}
FILES = tuple(FileDigest(name, len(data), Digest(hashlib.sha256(data).hexdigest())) for name, data in sorted(CONTENT.items()))
LOOKS_FOR_A_MANIFEST = 5
"""A purge, a withdrawn manifest, and the published, the staged and the published one."""


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3") as server:
        server.bucket("models")
        yield server


def store(server: S3Server) -> S3Weights:
    return S3Weights("models", "", server.client())


def slow_store(server: S3Server, meanwhile: Callable[[], object]) -> S3Weights:
    """Return a store whose owner is overtaken: `meanwhile` happens right after it saw that there is no manifest."""
    client = server.client()
    looks = iter(range(1, 1_000))

    def after_a_look(**_: Any) -> None:
        if next(looks) == LOOKS_FOR_A_MANIFEST:
            meanwhile()

    client.meta.events.register("after-call.s3.GetObject", after_a_look)
    return S3Weights("models", "", client)


def test_a_bundle_that_was_published_while_another_staged_it_stays_published(tmp_path: Path, server: S3Server) -> None:
    def publish() -> None:
        store(server).stage(ONE, fill(tmp_path / "fast"), FILES)
        store(server).publish(ONE)

    staged = slow_store(server, publish).stage(ONE, fill(tmp_path / "slow"), FILES)
    assert staged.published
    assert store(server).open(ONE).published


def test_a_stager_with_wrong_bytes_does_no_harm_to_what_another_published_meanwhile(tmp_path: Path, server: S3Server) -> None:
    def publish_then_damage() -> None:
        store(server).stage(ONE, fill(tmp_path / "fast"), FILES[:2])
        store(server).publish(ONE)

    slow = fill(tmp_path / "slow")
    (slow / "c").write_bytes(b"wrong")
    with pytest.raises(Fault, match="c"):
        slow_store(server, publish_then_damage).stage(ONE, slow, FILES)
    assert store(server).open(ONE).published


def test_a_bundle_on_s3_loses_its_manifests_before_its_files(tmp_path: Path, server: S3Server) -> None:
    store(server).stage(ONE, fill(tmp_path / "source"), FILES)
    store(server).publish(ONE)
    client, deleted = server.client(), []
    client.meta.events.register("provide-client-params.s3.DeleteObject", lambda params, **_: deleted.append(params["Key"].rsplit("/")[-1]))
    S3Weights("models", "", client).delete(ONE)
    assert deleted == ["manifest.json", "manifest.staged.json", "a", "b", "c"]


def test_processes_that_stage_and_publish_the_same_bundle_in_a_folder_at_once_do_no_harm(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(4)

    def stage(source: Path) -> None:
        start.wait(10)
        weights = FolderWeights(tmp_path / "weights")
        weights.stage(ONE, source, FILES)
        weights.publish(ONE)

    children = [fork.Process(target=stage, args=(fill(tmp_path / f"source-{number}"),)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert FolderWeights(tmp_path / "weights").open(ONE).published
    assert sorted(path.name for path in (tmp_path / "weights/bundles" / ONE).iterdir()) == ["a", "b", "c", "manifest.json"]
