"""WeightsStore when the world fails: a kill in the middle, a full disk, a server that is away."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import Fault, NotFound, Transient
from core.ids import Digest
from core.versions import FileDigest
from registry.weights.folder import FolderWeights
from registry.weights.s3 import S3Weights
from registry.weights.s3_client import s3_client
from tests.equipment.s3_server import S3Server

ONE = Digest("1" * 64)
MB = 1_000_000


def make(folder: Path, count: int, size: int) -> tuple[FileDigest, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        content = number.to_bytes(4, "big") * (size // 4)
        (folder / f"part-{number:02}").write_bytes(content)
        made.append(FileDigest(f"part-{number:02}", len(content), Digest(hashlib.sha256(content).hexdigest())))
    return tuple(made)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"not within 20 s: {what}"
        threading.Event().wait(0.002)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child and return its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode is not None
    return child.exitcode


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED HERE: a really full disk; mounting a tmpfs needs rights that we lack ({done.stderr.strip()})")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_process_killed_while_it_stages_leaves_no_bundle_and_the_next_one_finishes(tmp_path: Path, nth: int) -> None:
    source, root = tmp_path / "source", tmp_path / "weights"
    files = make(source, 3, 4 * MB)
    os.link(source / "part-01", tmp_path / "second-name")  # so that this one is copied, not moved
    bundle = root / "bundles" / ONE

    def stage_and_die() -> None:
        def die_when_enough_is_there() -> None:
            until(lambda: sum(path.is_file() for path in bundle.glob("*")) >= nth, f"{nth} files")
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=die_when_enough_is_there, daemon=True).start()
        while True:
            FolderWeights(root).stage(ONE, source, files)
            until(lambda: False, "the kill")

    assert in_child(stage_and_die) == -signal.SIGKILL
    again = FolderWeights(root)
    if not (bundle / "manifest.staged.json").exists():
        with pytest.raises(NotFound):
            again.open(ONE)
    staged = again.stage(ONE, source, files)
    assert staged.files == files
    assert again.publish(ONE).published
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "part-00", "part-01", "part-02"]


def test_a_file_with_a_second_name_is_copied_so_that_nobody_can_write_to_the_stored_one(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 1, 4096)
    os.link(tmp_path / "source/part-00", tmp_path / "users-own")
    weights = FolderWeights(tmp_path / "weights")
    weights.stage(ONE, tmp_path / "source", files)
    (tmp_path / "users-own").write_bytes(b"trained further")
    assert weights.publish(ONE).files == files


def test_files_on_the_same_file_system_are_moved(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 1, 4096)
    inode = (tmp_path / "source/part-00").stat().st_ino
    FolderWeights(tmp_path / "weights").stage(ONE, tmp_path / "source", files)
    assert (tmp_path / "weights/bundles" / ONE / "part-00").stat().st_ino == inode


def test_a_full_disk_is_a_fault_that_says_so_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    files = make(tmp_path / "source", 2, 800_000)
    weights = FolderWeights(small_disk / "weights")
    with pytest.raises(Fault, match=r"disk full: .*part-01 .* needs 0\.8 MB, .* has 0\.2 MB free") as fault:
        weights.stage(ONE, tmp_path / "source", files)
    assert "free some space" in fault.value.hint
    assert not (small_disk / "weights/bundles" / ONE).exists()
    with pytest.raises(NotFound):
        weights.open(ONE)


def test_a_disk_that_fills_up_in_the_middle_of_a_file_is_a_fault_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    make(tmp_path / "source", 1, 2 * MB)
    promised = [FileDigest("part-00", 100, ONE)]  # it would have fitted, so the look before does not find out
    with pytest.raises(Fault, match="disk full while"):
        FolderWeights(small_disk / "weights").stage(ONE, tmp_path / "source", promised)
    assert not (small_disk / "weights/bundles" / ONE).exists()


def test_a_file_larger_than_the_process_may_write_is_a_fault(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 1, 2 * MB)
    os.link(tmp_path / "source/part-00", tmp_path / "second-name")

    def stage_under_a_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MB, MB))
        try:
            FolderWeights(tmp_path / "weights").stage(ONE, tmp_path / "source", files)
        except Fault as fault:
            sys.exit(7 if "disk full" in str(fault) else 8)

    assert in_child(stage_under_a_limit) == 7
    assert not (tmp_path / "weights/bundles" / ONE).exists()


def test_a_store_in_a_place_that_is_no_folder_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(Fault):
        FolderWeights(tmp_path / "weights").stage(ONE, tmp_path, ())


def test_large_files_go_to_s3_in_parts_and_come_back_the_same(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 1, 40 * MB)
    with S3Server(tmp_path / "s3") as server:
        client = server.client()
        weights = S3Weights(server.bucket("models"), "", client)
        assert weights.stage(ONE, tmp_path / "source", files).uri == f"s3://models/bundles/{ONE}"
        stored = client.get_object(Bucket="models", Key=f"bundles/{ONE}/part-00")["Body"]
        assert hashlib.sha256(stored.read()).hexdigest() == files[0].sha256
        assert weights.publish(ONE).published


def test_a_large_file_with_a_wrong_last_byte_never_appears_on_s3(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 1, 40 * MB)
    with (tmp_path / "source/part-00").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    with S3Server(tmp_path / "s3") as server:
        weights = S3Weights(server.bucket("models"), "", server.client())
        with pytest.raises(Fault, match="part-00"):
            weights.stage(ONE, tmp_path / "source", files)
        assert list((tmp_path / "s3").rglob("part-00")) == []


def test_a_bundle_of_more_objects_than_one_page_lists_is_stored_and_deleted_whole(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 1005, 4)
    with S3Server(tmp_path / "s3") as server:
        weights = S3Weights(server.bucket("models"), "", server.client())
        weights.stage(ONE, tmp_path / "source", files)
        assert len(weights.open(ONE).files) == 1005
        weights.delete(ONE)
        assert [path for path in (tmp_path / "s3").rglob("*") if path.is_file()] == []


def test_an_upload_that_was_cut_off_is_removed_with_its_bundle(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        client = server.client()
        upload = client.create_multipart_upload(Bucket=server.bucket("models"), Key=f"bundles/{ONE}/part-00")
        client.upload_part(Bucket="models", Key=f"bundles/{ONE}/part-00", PartNumber=1, UploadId=upload["UploadId"], Body=b"x" * 100)
        S3Weights("models", "", client).delete(ONE)
        with pytest.raises(client.exceptions.ClientError, match="NoSuchUpload"):
            client.list_parts(Bucket="models", Key=f"bundles/{ONE}/part-00", UploadId=upload["UploadId"])


def test_a_process_killed_while_it_uploads_leaves_no_bundle_and_the_next_one_stores_the_rest(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 12, 4 * MB)
    with S3Server(tmp_path / "s3") as server:
        bucket = server.bucket("models")
        first = tmp_path / "s3/models/bundles" / ONE / "part-02"

        def stage_and_die() -> None:
            def die() -> None:
                until(first.exists, "the third object")
                os.kill(os.getpid(), signal.SIGKILL)

            threading.Thread(target=die, daemon=True).start()
            S3Weights(bucket, "", server.client()).stage(ONE, tmp_path / "source", files)
            until(lambda: False, "the kill")

        assert in_child(stage_and_die) == -signal.SIGKILL
        weights = S3Weights(bucket, "", server.client())
        with pytest.raises(NotFound):
            weights.open(ONE)
        assert weights.list() == ()
        client = server.client()
        before = client.head_object(Bucket=bucket, Key=f"bundles/{ONE}/part-00")["LastModified"]
        assert weights.stage(ONE, tmp_path / "source", files).files == files
        assert client.head_object(Bucket=bucket, Key=f"bundles/{ONE}/part-00")["LastModified"] == before
        assert weights.publish(ONE).published


def test_an_s3_server_that_is_away_is_transient_and_all_goes_on_when_it_is_back(tmp_path: Path) -> None:
    files = make(tmp_path / "source", 1, 4096)
    with S3Server(tmp_path / "s3") as server:
        weights = S3Weights(server.bucket("models"), "p", server.client())
        weights.stage(ONE, tmp_path / "source", files)
        server.stop()
        for use in (weights.open, weights.publish, weights.delete):
            with pytest.raises(Transient):
                use(ONE)
        with pytest.raises(Transient):
            weights.list()
        server.start()
        assert weights.publish(ONE).published


def test_a_bucket_that_does_not_exist_is_a_fault_that_names_it(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server, pytest.raises(Fault, match="bucket"):
        S3Weights("missing", "", server.client()).stage(ONE, tmp_path, ())


def test_wrong_s3_credentials_are_a_fault(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        bucket = server.bucket("models")
        stranger = s3_client(server.url, access_key="stranger-1", secret_key="not-the-secret")
        with pytest.raises(Fault, match="credentials"):
            S3Weights(bucket, "", stranger).open(ONE)
