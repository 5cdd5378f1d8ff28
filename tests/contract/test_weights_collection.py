"""Garbage collection at the WeightsStore: withdraw, take back, purge, and what happens when they meet. On a folder and on S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import NotFound, Transient
from core.ids import Digest
from core.ports.clock import VirtualClock
from registry.weights.s3 import S3Weights
from tests.contract.test_weights import CONTENT, ONE, TWO, OnFolder, OnS3, Store, fill, listing
from tests.equipment.s3_server import S3Server

LATER = 1e12
"""A deadline before which everything is withdrawn."""


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return OnFolder(tmp_path / "weights")
    return OnS3(request.getfixturevalue("s3_server"), f"b{abs(hash(str(tmp_path)))}"[:20])


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Digest:
    store.weights.stage(ONE, fill(tmp_path / "source"), listing())
    store.weights.publish(ONE)
    return ONE


def test_a_withdrawn_bundle_cannot_be_opened_and_keeps_its_files(store: Store, published: Digest) -> None:
    assert store.weights.withdraw(published)
    with pytest.raises(NotFound):
        store.weights.open(published)
    assert store.weights.list() == ()
    (left,) = store.weights.leftovers()
    assert (left.digest, left.since) == (published, VirtualClock().now())
    assert left.bytes >= sum(map(len, CONTENT.values()))
    assert set(CONTENT) <= set(store.stamps(published))


def test_the_first_installation_owns_a_store_until_another_takes_over(store: Store) -> None:
    assert store.weights.claim("a" * 32) == "a" * 32
    assert store.weights.claim("b" * 32) == "a" * 32
    assert store.weights.claim("b" * 32, take_over=True) == "b" * 32
    assert store.weights.claim("a" * 32) == "b" * 32
    assert store.weights.list() == ()
    assert store.weights.leftovers() == ()


def test_withdrawing_what_is_not_there_or_withdrawn_already_changes_nothing(store: Store, published: Digest) -> None:
    assert not store.weights.withdraw(TWO)
    store.weights.withdraw(published)
    before = store.stamps(published)
    assert not store.weights.withdraw(published)
    assert store.stamps(published) == before


def test_a_withdrawn_bundle_is_taken_back_as_it_was(store: Store, published: Digest) -> None:
    was = store.weights.open(published)
    store.weights.withdraw(published)
    assert store.again().reclaim(published) == was
    assert store.weights.open(published) == was
    assert store.weights.leftovers() == ()


def test_reclaiming_a_bundle_that_was_not_withdrawn_opens_it(store: Store, published: Digest) -> None:
    before = store.stamps(published)
    assert store.weights.reclaim(published) == store.weights.open(published)
    assert store.stamps(published) == before
    with pytest.raises(NotFound):
        store.weights.reclaim(TWO)


def test_staging_takes_a_withdrawn_bundle_back_without_its_source(store: Store, published: Digest, tmp_path: Path) -> None:
    store.weights.withdraw(published)
    assert store.again().stage(published, tmp_path / "nothing-here", listing()).published


def test_a_purge_deletes_what_was_withdrawn_before_its_deadline_only(store: Store, published: Digest) -> None:
    store.weights.withdraw(published)
    at = VirtualClock().now()
    assert not store.weights.purge(published, at)
    assert store.weights.reclaim(published).published
    store.weights.withdraw(published)
    assert store.weights.purge(published, at + 1)
    assert store.stamps(published) == {}
    assert store.weights.leftovers() == ()
    assert not store.weights.purge(published, at + 1)


def test_a_purge_leaves_a_bundle_that_was_taken_back(store: Store, published: Digest) -> None:
    store.weights.withdraw(published)
    store.again().reclaim(published)
    assert not store.weights.purge(published, LATER)
    assert store.weights.open(published).files == listing()


def test_half_a_bundle_is_a_leftover_and_is_purged(store: Store, tmp_path: Path) -> None:
    store.weights.stage(ONE, fill(tmp_path / "source"), listing())
    store.remove(ONE, "manifest.staged.json")
    (left,) = store.weights.leftovers()
    assert not store.weights.purge(ONE, left.since)
    assert store.weights.purge(ONE, left.since + 1)
    assert store.stamps(ONE) == {}


def test_what_was_purged_is_stored_again(store: Store, published: Digest, tmp_path: Path) -> None:
    store.weights.withdraw(published)
    store.weights.purge(published, LATER)
    store.weights.stage(published, fill(tmp_path / "again"), listing())
    assert store.weights.publish(published).files == listing()


class Interleaved:
    """A second S3 client on which `meanwhile` happens once, right before or after the nth call of one operation."""

    def __init__(self, store: OnS3, event: str, nth: int, meanwhile: Callable[[], object]) -> None:
        client, calls = store.server.client(), iter(range(1, 1_000))

        def happen(**_: Any) -> None:
            if next(calls) == nth:
                meanwhile()

        client.meta.events.register(event, happen)
        self.weights = S3Weights(store.bucket, "some/prefix", client, VirtualClock())


@pytest.fixture
def on_s3(s3_server: S3Server, tmp_path: Path) -> OnS3:
    store = OnS3(s3_server, f"i{abs(hash(str(tmp_path)))}"[:20])
    store.weights.stage(ONE, fill(tmp_path / "source"), listing())
    store.weights.publish(ONE)
    store.weights.withdraw(ONE)
    return store


EVENTS = ("before-call.s3.GetObject", "before-call.s3.PutObject", "after-call.s3.PutObject", "before-call.s3.DeleteObject")


def whole_or_gone(store: Store) -> bool:
    """Return whether the bundle opens with all files; no manifest may be left of one that does not."""
    try:
        return store.weights.open(ONE).files == listing()
    except NotFound:
        assert not {"manifest.json", "manifest.staged.json"} & set(store.stamps(ONE))
        return False


def reclaimed(store: Store) -> bool:
    try:
        store.again().reclaim(ONE)
    except (NotFound, Transient):
        return False
    return True


@pytest.mark.parametrize("nth", range(1, 6))
@pytest.mark.parametrize("event", EVENTS)
def test_a_reclaim_at_any_moment_of_a_purge_gets_the_whole_bundle_or_none(on_s3: OnS3, event: str, nth: int, tmp_path: Path) -> None:
    got: list[bool] = []
    purged = Interleaved(on_s3, event, nth, lambda: got.append(reclaimed(on_s3))).weights.purge(ONE, LATER)
    assert whole_or_gone(on_s3) == (not purged and got == [True])
    if got == [True]:
        assert not purged, "a bundle that was given out is not deleted"
    again = S3Weights(on_s3.bucket, "some/prefix", on_s3.server.client(), clock := VirtualClock())
    clock.wait(3600)
    assert again.stage(ONE, fill(tmp_path / "again"), listing()).files == listing()


@pytest.mark.parametrize("nth", range(1, 6))
@pytest.mark.parametrize("event", EVENTS)
def test_a_purge_at_any_moment_of_a_reclaim_leaves_the_whole_bundle_or_none(on_s3: OnS3, event: str, nth: int) -> None:
    purged: list[bool] = []
    weights = Interleaved(on_s3, event, nth, lambda: purged.append(on_s3.again().purge(ONE, LATER))).weights
    try:
        weights.reclaim(ONE)
    except (NotFound, Transient):
        assert not whole_or_gone(on_s3)
    else:
        assert True not in purged
        assert whole_or_gone(on_s3)


def test_a_submission_that_stores_what_is_being_purged_is_told_to_wait(on_s3: OnS3, tmp_path: Path) -> None:
    on_s3.write(ONE, "manifest.purging.json", b'{"at": %f}' % VirtualClock().now())
    with pytest.raises(Transient):
        on_s3.weights.stage(ONE, fill(tmp_path / "again"), listing())
