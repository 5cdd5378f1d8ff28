"""The Hugging Face hub when it fails, refuses, lies or falls silent."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from core.errors import Fault, Forbidden, NotFound, Refused, Transient
from core.ports.clock import SystemClock, VirtualClock
from core.ports.hub import Progress
from core.versions import FileDigest, HubFile, ModelRef
from registry.hub.huggingface import HuggingFaceHub
from tests.equipment.hub_server import HubServer

REF = ModelRef("org/model")
WEIGHTS = bytes(range(256)) * 12_000
CONTENT = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b'{"hidden_size": 8}', "model.safetensors": WEIGHTS}
BIG, SMALL = "org/model/model.safetensors", "org/model/config.json"

DOWNLOADER = """
import sys
from pathlib import Path
from core.ports.clock import SystemClock
from core.versions import ModelRef
from registry.hub.huggingface import HuggingFaceHub
hub = HuggingFaceHub(sys.argv[1], None, stall_s=20.0, limit_s=60.0, clock=SystemClock())
model = hub.resolve(ModelRef("org/model"))
hub.download(model, model.files, Path(sys.argv[2]), lambda done, total: None)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    folder = tmp_path / "hub/org/model"
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    with HubServer(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def hub(server: HubServer, token: str | None = None, *, stall_s: float = 5.0, limit_s: float = 60.0) -> HuggingFaceHub:
    return HuggingFaceHub(server.url, token, stall_s=stall_s, limit_s=limit_s, clock=SystemClock())


def ignore(_done: int, _total: int) -> None:
    """Progress that nobody wants."""


def download(of: HuggingFaceHub, target: Path, progress: Progress = ignore) -> tuple[FileDigest, ...]:
    model = of.resolve(REF)
    return of.download(model, model.files, target, progress)


def whole(target: Path) -> bool:
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()} == CONTENT


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_busy_hub_is_transient_at_once_and_with_the_wait_that_it_asks_for(server: HubServer, target: Path, status: int) -> None:
    server.fail("api:*", "status", status=status, retry_after="7")
    with pytest.raises(Transient) as listing:
        hub(server).resolve(REF)
    server.fail(BIG, "status", status=status, retry_after="9")
    with pytest.raises(Transient) as file:
        download(hub(server), target)
    assert (listing.value.retry_after_s, file.value.retry_after_s) == (7.0, 9.0)
    assert server.requests["GET", BIG] == 2  # the redirect and the refusal: nobody tried again behind our back
    download(hub(server), target)
    assert whole(target)


def test_retry_after_may_be_a_date(server: HubServer) -> None:
    server.fail("api:*", "status", status=429, retry_after="Tue, 14 Nov 2023 22:14:20 GMT")
    clock = VirtualClock(1_700_000_000.0)  # 22:13:20
    with pytest.raises(Transient) as busy:
        HuggingFaceHub(server.url, None, stall_s=5.0, limit_s=60.0, clock=clock).resolve(REF)
    assert busy.value.retry_after_s == 60.0


@pytest.mark.parametrize("kind", ["cut", "short"])
def test_a_cut_connection_is_transient_and_the_next_attempt_goes_on_where_it_was_cut(server: HubServer, target: Path, kind: str) -> None:
    server.fail(BIG, kind, after=2_000_000)
    with pytest.raises(Transient):
        download(hub(server), target)
    kept = sum(path.stat().st_size for path in (target / ".partial").iterdir())
    assert kept > 0
    download(hub(server), target)
    assert whole(target)
    assert server.sent[BIG] == 2_000_000 + len(WEIGHTS) - kept


def test_a_download_that_was_killed_goes_on_where_it_was(server: HubServer, target: Path) -> None:
    server.fail(BIG, "stall", after=2_000_000)
    command = [sys.executable, "-c", DOWNLOADER, server.url, str(target)]
    with subprocess.Popen(command) as child:
        try:
            deadline = time.monotonic() + 20
            while sum(path.stat().st_size for path in target.glob(".partial/*")) < 1_000_000:
                assert time.monotonic() < deadline
                threading.Event().wait(0.01)
        finally:
            child.kill()
    assert not (target / "model.safetensors").exists()
    download(hub(server), target)
    assert whole(target)
    assert server.sent[BIG] < 2_000_000 + len(WEIGHTS) - 900_000


def test_a_connection_that_falls_silent_is_cut_after_the_stall_limit(server: HubServer, target: Path) -> None:
    server.fail(BIG, "stall", after=100_000)
    began = time.monotonic()
    with pytest.raises(Transient, match="stopped answering"):
        download(hub(server, stall_s=0.3), target)
    assert time.monotonic() - began < 5
    download(hub(server), target)
    assert whole(target)


def test_a_download_that_takes_longer_than_its_limit_ends_as_transient_and_keeps_what_came(server: HubServer, target: Path) -> None:
    clock = VirtualClock()
    slow = HuggingFaceHub(server.url, None, stall_s=5.0, limit_s=10.0, clock=clock)
    model = slow.resolve(REF)
    weights = [file for file in model.files if file.path == "model.safetensors"]
    server.fail(BIG, "cut", after=1_000_000)
    with pytest.raises(Transient):
        slow.download(model, weights, target, ignore)
    kept = sum(path.stat().st_size for path in (target / ".partial").iterdir())
    with pytest.raises(Transient, match="limit"):
        slow.download(model, weights, target, lambda _done, _total: clock.wait(11))
    assert sum(path.stat().st_size for path in (target / ".partial").iterdir()) >= kept
    assert slow.download(model, weights, target, ignore)[0].size == len(WEIGHTS)


@pytest.mark.parametrize("path", [BIG, SMALL])
def test_wrong_bytes_are_fetched_once_more(server: HubServer, target: Path, path: str) -> None:
    server.fail(path, "wrong", after=5)
    download(hub(server), target)
    assert whole(target)


@pytest.mark.parametrize("kind", ["wrong", "truncated"])
@pytest.mark.parametrize("path", [BIG, SMALL])
def test_bytes_that_stay_wrong_are_refused_and_never_get_their_name(server: HubServer, target: Path, path: str, kind: str) -> None:
    server.fail(path, kind, after=5, times=9)
    with pytest.raises(Refused) as refusal:
        download(hub(server), target)
    assert refusal.value.reason == "wrong_bytes"
    assert Path(path).name in str(refusal.value)
    assert not (target / Path(path).name).exists()


def test_a_wrong_file_that_stands_in_the_folder_is_replaced(server: HubServer, target: Path) -> None:
    download(hub(server), target)
    (target / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    download(hub(server), target)
    assert whole(target)


def test_a_part_that_does_not_belong_to_the_file_is_thrown_away(server: HubServer, target: Path) -> None:
    server.fail(BIG, "cut", after=2_000_000)
    with pytest.raises(Transient):
        download(hub(server), target)
    (part,) = (path for path in (target / ".partial").iterdir() if path.stat().st_size)
    part.write_bytes(b"x" * part.stat().st_size)
    download(hub(server), target)
    assert whole(target)


@pytest.mark.parametrize("token", [None, "hf_stranger"])
def test_a_gated_model_is_refused_before_any_download_and_the_hint_names_its_page(server: HubServer, token: str | None) -> None:
    server.gate("org/model", "hf_friend")
    with pytest.raises(Refused) as refusal:
        hub(server, token).resolve(REF)
    assert refusal.value.reason == "gated"
    assert f"{server.url}/org/model" in refusal.value.hint
    assert "SEATRIAL_HUB_TOKEN" in refusal.value.hint
    assert not server.sent[BIG]


def test_a_model_that_became_gated_is_refused_while_it_is_downloaded(server: HubServer, target: Path) -> None:
    model = hub(server).resolve(REF)
    server.gate("org/model")
    with pytest.raises(Refused) as refusal:
        hub(server).download(model, model.files, target, ignore)
    assert refusal.value.reason == "gated"


def test_a_token_opens_a_gated_model_and_never_leaves_the_hub(server: HubServer, target: Path) -> None:
    server.gate("org/model", "hf_friend")
    download(hub(server, "hf_friend"), target)
    assert whole(target)
    assert {value for _, value in server.authorised} == {"Bearer hf_friend"}
    assert not [key for key, _ in server.authorised if key.startswith("lfs:")]


def test_no_token_means_none_even_when_the_environment_has_one(server: HubServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    download(hub(server), target)
    assert server.authorised == []


@pytest.mark.parametrize("token", ["hf_with a space", "hf_two\nlines", "hf_grün", "hf_\0"])
def test_a_token_that_no_header_can_carry_is_a_fault_that_does_not_tell_it(server: HubServer, token: str) -> None:
    with pytest.raises(Fault, match="SEATRIAL_HUB_TOKEN") as fault:
        hub(server, token)
    assert token not in str(fault.value)
    assert fault.value.__cause__ is None


def test_a_line_end_after_the_token_does_no_harm(server: HubServer) -> None:
    server.gate("org/model", "hf_friend")
    assert hub(server, "hf_friend\n").resolve(REF).files


def test_a_private_model_is_not_found_without_a_token(server: HubServer) -> None:
    server.private.add("org/model")
    with pytest.raises(NotFound, match="private") as refusal:
        hub(server).resolve(REF)
    assert refusal.value.reason == "not_found"
    assert hub(server, "hf_friend").resolve(REF).files


def test_a_revision_that_does_not_exist_is_not_found(server: HubServer) -> None:
    with pytest.raises(NotFound, match="revision"):
        hub(server).resolve(ModelRef("org/model", "no-such-branch"))


def test_a_commit_can_be_named(server: HubServer) -> None:
    commit = hub(server).resolve(REF).commit
    assert hub(server).resolve(ModelRef("org/model", commit)).commit == commit


def test_files_of_a_commit_that_is_gone_are_not_found(server: HubServer, target: Path) -> None:
    model = hub(server).resolve(REF)
    (server.root / "org/model/config.json").write_bytes(b"{}")
    with pytest.raises(NotFound):
        hub(server).download(model, model.files, target, ignore)


@pytest.mark.parametrize(("status", "kind"), [(401, Fault), (403, Forbidden), (418, Fault)])
def test_other_refusals_of_the_hub_are_not_retried(server: HubServer, status: int, kind: type[Exception]) -> None:
    server.fail("api:*", "status", status=status)
    with pytest.raises(kind):
        hub(server).resolve(REF)


def test_a_page_instead_of_a_listing_is_transient(server: HubServer) -> None:
    server.fail("api:*", "nonsense")
    with pytest.raises(Transient, match="cannot be read"):
        hub(server).resolve(REF)


def test_a_hub_that_is_down_is_transient_and_all_goes_on_when_it_is_back(server: HubServer, target: Path) -> None:
    model = hub(server).resolve(REF)
    server.down()
    with pytest.raises(Transient, match="no connection"):
        hub(server).resolve(REF)
    with pytest.raises(Transient, match="no connection"):
        hub(server).download(model, model.files, target, ignore)
    server.up()
    hub(server).download(model, model.files, target, ignore)
    assert whole(target)


def test_an_address_that_is_no_url_is_a_fault() -> None:
    with pytest.raises(Fault, match="URL"):
        HuggingFaceHub("ftp://127.0.0.1", None, stall_s=1.0, limit_s=1.0, clock=SystemClock()).resolve(REF)


def test_a_listing_without_digests_is_a_fault(server: HubServer, target: Path) -> None:
    model = hub(server).resolve(REF)
    with pytest.raises(Fault, match="digest"):
        hub(server).download(model, [HubFile("config.json", 18)], target, ignore)


def test_a_disk_without_room_is_a_fault_with_the_numbers_before_anything_is_fetched(server: HubServer, target: Path) -> None:
    model = hub(server).resolve(REF)
    with pytest.raises(Fault, match=r"disk full: .*needs 9000000000\.0 MB"):
        hub(server).download(model, [HubFile("model.safetensors", 9 * 10**15, git_oid="0" * 40)], target, ignore)
    assert not server.sent[BIG]


def test_a_disk_that_runs_full_on_the_way_is_a_fault(server: HubServer, small_disk: Path) -> None:
    model = hub(server).resolve(REF)
    (small_disk / "model.safetensors").write_bytes(b"x" * 900_000)  # a wrong file of the right size: nothing seems to be missing
    announced = next(HubFile(file.path, 900_000, file.sha256) for file in model.files if file.path == "model.safetensors")
    with pytest.raises(Fault, match="disk full while downloading org/model"):
        hub(server).download(model, [announced], small_disk, ignore)


def test_a_cancelled_download_leaves_no_thread_behind(server: HubServer, target: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(done: int, _total: int) -> None:
        if done > 300_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        download(hub(server), target, cancel)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("download")] == []
    placed = [name for name in CONTENT if (target / name).exists()]
    assert all((target / name).read_bytes() == CONTENT[name] for name in placed), "a file has its name only when it is whole"
    download(hub(server), target)
    assert whole(target)


def test_progress_is_called_at_least_every_half_megabyte_by_the_calling_thread(server: HubServer, target: Path) -> None:
    steps, threads = [0], set()

    def see(done: int, _total: int) -> None:
        steps.append(done)
        threads.add(threading.current_thread())

    download(hub(server), target, see)
    assert max(after - before for before, after in pairwise(steps)) <= 512 * 1024
    assert threads == {threading.current_thread()}


def test_the_server_runs_as_a_process_and_takes_orders_over_http(server: HubServer, target: Path) -> None:
    command = [sys.executable, "-m", "tests.equipment.hub_server", "--root", str(server.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().strip()
            order = {"path": "api:org/model", "kind": "status", "status": 503}
            urllib.request.urlopen(urllib.request.Request(f"{url}/__control__/faults", json.dumps(order).encode())).read()
            other = HuggingFaceHub(url, None, stall_s=5.0, limit_s=60.0, clock=SystemClock())
            with pytest.raises(Transient):
                other.resolve(REF)
            download(other, target)
            counters = json.load(urllib.request.urlopen(f"{url}/__control__/counters"))
            assert counters["sent"][BIG] == len(WEIGHTS)
        finally:
            child.terminate()
    assert whole(target)
