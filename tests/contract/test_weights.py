"""The contract of WeightsStore, held by every adapter: a folder, and S3 on a real server."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import Fault, NotFound, Refused
from core.ids import Digest
from core.ports import WeightsStore
from core.ports.clock import VirtualClock
from core.versions import FileDigest
from registry.weights.folder import FolderWeights
from registry.weights.s3 import S3Weights
from tests.equipment.s3_server import S3Server

CONTENT = {"tensors.json": b'{"files": []}', "part-0.tensors": bytes(range(256)) * 999, "deep/er/tokenizer.json": b"{}", "empty": b""}
ONE = Digest("1" * 64)
TWO = Digest("2" * 64)


class Store(ABC):
    """One adapter, and a way past it to what it stored: to look, and to do damage."""

    weights: WeightsStore

    @abstractmethod
    def again(self) -> WeightsStore:
        """Return a second adapter of the same store, as another process has it."""

    @abstractmethod
    def stamps(self, digest: Digest) -> dict[str, object]:
        """Return the stored names of a bundle, with something that changes when they are written again."""

    @abstractmethod
    def read(self, digest: Digest, name: str) -> bytes: ...

    @abstractmethod
    def write(self, digest: Digest, name: str, content: bytes) -> None: ...

    @abstractmethod
    def remove(self, digest: Digest, name: str) -> None: ...


class OnFolder(Store):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.weights = FolderWeights(root, VirtualClock())

    def again(self) -> WeightsStore:
        return FolderWeights(self.root)

    def stamps(self, digest: Digest) -> dict[str, object]:
        folder = self.root / "bundles" / digest
        return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    def read(self, digest: Digest, name: str) -> bytes:
        return (self.root / "bundles" / digest / name).read_bytes()

    def write(self, digest: Digest, name: str, content: bytes) -> None:
        (self.root / "bundles" / digest / name).write_bytes(content)

    def remove(self, digest: Digest, name: str) -> None:
        (self.root / "bundles" / digest / name).unlink()


class OnS3(Store):
    def __init__(self, server: S3Server, bucket: str) -> None:
        self.server, self.bucket = server, server.bucket(bucket)
        self.client = server.client()
        self.weights = S3Weights(bucket, "some/prefix", self.client, VirtualClock())

    def again(self) -> WeightsStore:
        return S3Weights(self.bucket, "some/prefix", self.server.client())

    def stamps(self, digest: Digest) -> dict[str, object]:
        prefix = self._key(digest, "")
        page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return {item["Key"].removeprefix(prefix): item["LastModified"] for item in page.get("Contents", ())}

    def read(self, digest: Digest, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=self._key(digest, name))["Body"].read()

    def write(self, digest: Digest, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self._key(digest, name), Body=content)

    def remove(self, digest: Digest, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self._key(digest, name))

    @staticmethod
    def _key(digest: Digest, name: str) -> str:
        return f"some/prefix/bundles/{digest}/{name}"


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return OnFolder(tmp_path / "weights")
    server: S3Server = request.getfixturevalue("s3_server")
    return OnS3(server, "b" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source")


def fill(folder: Path) -> Path:
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def listing() -> tuple[FileDigest, ...]:
    return tuple(FileDigest(name, len(data), Digest(hashlib.sha256(data).hexdigest())) for name, data in sorted(CONTENT.items()))


def test_a_staged_bundle_is_there_unpublished_with_all_its_files(store: Store, source: Path) -> None:
    staged = store.weights.stage(ONE, source, listing())
    assert (staged.digest, staged.published, staged.files) == (ONE, False, listing())
    assert store.weights.open(ONE) == staged
    assert {name: store.read(ONE, name) for name in CONTENT} == CONTENT


def test_what_one_process_staged_another_opens(store: Store, source: Path) -> None:
    staged = store.weights.stage(ONE, source, listing())
    assert store.again().open(ONE) == staged


def test_the_uri_stays_the_same_from_staging_to_publication(store: Store, source: Path) -> None:
    staged = store.weights.stage(ONE, source, listing())
    published = store.weights.publish(ONE)
    assert published.published
    assert (published.uri, published.files, published.created_at) == (staged.uri, staged.files, staged.created_at)
    assert store.weights.open(ONE) == published
    assert staged.uri.endswith(f"/bundles/{ONE}")


def test_publishing_twice_changes_nothing(store: Store, source: Path) -> None:
    store.weights.stage(ONE, source, listing())
    assert store.weights.publish(ONE) == store.weights.publish(ONE)


def test_staging_what_is_staged_needs_no_source_and_stores_nothing(store: Store, source: Path, tmp_path: Path) -> None:
    staged = store.weights.stage(ONE, source, listing())
    before = store.stamps(ONE)
    assert store.again().stage(ONE, tmp_path / "nothing-here", listing()) == staged
    assert store.stamps(ONE) == before


def test_staging_what_is_published_leaves_it_published(store: Store, source: Path, tmp_path: Path) -> None:
    store.weights.stage(ONE, source, listing())
    published = store.weights.publish(ONE)
    assert store.weights.stage(ONE, tmp_path / "nothing-here", listing()) == published


def test_what_was_never_staged_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound) as opened:
        store.weights.open(ONE)
    with pytest.raises(NotFound):
        store.weights.publish(ONE)
    assert opened.value.reason == "not_found"
    assert store.weights.list() == ()


def test_bundles_are_listed_by_digest(store: Store, tmp_path: Path) -> None:
    second = store.weights.stage(TWO, fill(tmp_path / "b"), listing())
    store.weights.stage(ONE, fill(tmp_path / "a"), listing())
    first = store.weights.publish(ONE)
    assert store.weights.list() == (first, second)


def test_a_deleted_bundle_is_gone_and_deleting_it_again_does_nothing(store: Store, source: Path, tmp_path: Path) -> None:
    store.weights.stage(ONE, source, listing())
    kept = store.weights.stage(TWO, fill(tmp_path / "b"), listing())
    store.weights.publish(ONE)
    store.weights.delete(ONE)
    store.weights.delete(ONE)
    assert store.weights.list() == (kept,)
    assert store.stamps(ONE) == {}
    with pytest.raises(NotFound):
        store.weights.open(ONE)


def test_files_without_a_manifest_are_no_bundle_and_are_deleted(store: Store, source: Path) -> None:
    store.weights.stage(ONE, source, listing())
    store.remove(ONE, "manifest.staged.json")
    assert store.weights.list() == ()
    with pytest.raises(NotFound):
        store.weights.open(ONE)
    store.weights.delete(ONE)
    assert store.stamps(ONE) == {}


def test_staging_goes_on_where_an_earlier_attempt_was_cut_off(store: Store, source: Path) -> None:
    store.weights.stage(ONE, source, listing())
    store.remove(ONE, "manifest.staged.json")
    store.remove(ONE, "deep/er/tokenizer.json")
    untouched = store.stamps(ONE)["part-0.tensors"]
    (source / "part-0.tensors").unlink(missing_ok=True)
    store.again().stage(ONE, fill_only(source, "deep/er/tokenizer.json"), listing())
    assert store.weights.open(ONE).files == listing()
    assert store.stamps(ONE)["part-0.tensors"] == untouched


def fill_only(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(CONTENT[name])
    return folder


@pytest.mark.parametrize("wrong", [b"x", CONTENT["part-0.tensors"][:-1] + b"!", CONTENT["part-0.tensors"] + b"more"])
def test_a_file_that_is_not_what_was_announced_leaves_nothing(store: Store, source: Path, wrong: bytes) -> None:
    (source / "part-0.tensors").write_bytes(wrong)
    with pytest.raises(Fault, match=r"part-0\.tensors"):
        store.weights.stage(ONE, source, listing())
    assert store.stamps(ONE) == {}
    with pytest.raises(NotFound):
        store.weights.open(ONE)


def test_an_announced_file_that_is_missing_leaves_nothing(store: Store, source: Path) -> None:
    (source / "tensors.json").unlink()
    with pytest.raises(Fault, match=r"tensors\.json"):
        store.weights.stage(ONE, source, listing())
    assert store.weights.list() == ()


def test_a_bundle_that_lost_a_file_is_not_found_and_is_staged_again(store: Store, source: Path, tmp_path: Path) -> None:
    store.weights.stage(ONE, source, listing())
    store.remove(ONE, "tensors.json")
    with pytest.raises(NotFound):
        store.weights.open(ONE)
    store.weights.stage(ONE, fill(tmp_path / "again"), listing())
    assert store.weights.publish(ONE).published


@pytest.mark.parametrize("damage", [b"", CONTENT["part-0.tensors"][:-1] + b"!"], ids=["truncated", "one byte changed"])
def test_a_damaged_bundle_is_neither_opened_nor_published_and_is_staged_again(
    store: Store, source: Path, tmp_path: Path, damage: bytes
) -> None:
    store.weights.stage(ONE, source, listing())
    store.write(ONE, "part-0.tensors", damage)
    with pytest.raises(Fault, match=r"part-0\.tensors"):
        store.weights.open(ONE)
    with pytest.raises(Fault, match=r"part-0\.tensors"):
        store.weights.publish(ONE)
    store.weights.stage(ONE, fill(tmp_path / "again"), listing())
    assert store.weights.publish(ONE).published


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b", "a//b", "", ".", "a\0b", "..\\b"])
def test_a_name_that_leaves_the_bundle_is_refused(store: Store, source: Path, name: str) -> None:
    with pytest.raises(Refused) as refusal:
        store.weights.stage(ONE, source, [FileDigest(name, 0, Digest("0" * 64))])
    assert refusal.value.reason == "unsafe_path"
    assert store.stamps(ONE) == {}


@pytest.mark.parametrize("name", ["manifest.json", "manifest.staged.json"])
def test_a_file_with_the_manifests_name_is_refused(store: Store, source: Path, name: str) -> None:
    with pytest.raises(Refused) as refusal:
        store.weights.stage(ONE, source, [FileDigest(name, 0, Digest("0" * 64))])
    assert refusal.value.reason == "reserved_name"


def test_a_digest_that_is_none_is_refused(store: Store, source: Path) -> None:
    for use in (store.weights.open, store.weights.publish, store.weights.delete):
        with pytest.raises(Refused) as refusal:
            use(Digest("../../etc"))
        assert refusal.value.reason == "bad_digest"
    with pytest.raises(Refused):
        store.weights.stage(Digest("A" * 64), source, listing())


def test_an_unreadable_manifest_is_a_fault_and_is_mended_by_staging(store: Store, source: Path, tmp_path: Path) -> None:
    store.weights.stage(ONE, source, listing())
    store.write(ONE, "manifest.staged.json", b'{"format": 1, "files": 7')
    with pytest.raises(Fault, match=r"manifest\.staged\.json"):
        store.weights.open(ONE)
    store.weights.stage(ONE, fill(tmp_path / "again"), listing())
    assert store.weights.open(ONE).files == listing()


def test_two_that_stage_the_same_bundle_at_once_do_no_harm(store: Store, tmp_path: Path) -> None:
    start, failures = threading.Barrier(4), []

    def stage(number: int) -> None:
        own = fill(tmp_path / f"source-{number}")
        weights = store.again()
        start.wait(10)
        try:
            weights.stage(ONE, own, listing())
            weights.publish(ONE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test fails with it
            failures.append(error)

    threads = [threading.Thread(target=stage, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert store.weights.open(ONE).published
    assert set(store.stamps(ONE)) - {"manifest.staged.json"} == {*CONTENT, "manifest.json"}
