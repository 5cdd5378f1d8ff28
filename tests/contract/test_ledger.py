"""The contract of core/ports/ledger.py: the spool, shipped to SQLite and to PostgreSQL."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from core.conversations import Outcome, Usage
from core.errors import Conflict, Fault, Transient
from core.ids import CompletionId
from core.ports.ledger import Reservation
from registry.database import Database, open_database
from registry.ledger import SpoolLedger
from tests.equipment.postgres import PostgresServer
from tests.equipment.samples import a_completion, a_vote, an_assignment

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def ledger(spool: Path, records: Database) -> Iterator[SpoolLedger]:
    ledger = SpoolLedger(spool, records.conversations)
    yield ledger
    ledger.close()


def reserve(ledger: SpoolLedger, number: int = 1) -> None:
    ledger.reserve(Reservation(a_completion(number, usage=None), an_assignment()))


def killed(ledger: SpoolLedger) -> None:
    """Leave the folder as a SIGKILL does: nothing is written, the lock is gone."""
    ledger._segments.close()


def test_what_was_settled_and_voted_is_shipped_once(ledger: SpoolLedger, records: Database) -> None:
    reserve(ledger)
    ledger.settle(a_completion())
    ledger.settle(a_completion())
    ledger.vote(a_vote())
    assert ledger.ship() == 4
    assert ledger.ship() == 0
    assert records.conversations.completion(a_completion().id) == a_completion()
    assert records.conversations.assignments(0.0, 10) == (an_assignment(),)
    assert records.conversations.feedback() == (a_vote(),)
    assert records.conversations.leaderboard()[0].usage == Usage(7, 11)


def test_shipping_again_what_a_crash_left_undeleted_counts_once(ledger: SpoolLedger, records: Database, spool: Path) -> None:
    ledger.settle(a_completion())
    ledger.vote(a_vote())
    left = {path: path.read_bytes() for path in spool.glob("*.log")}
    ledger.ship()
    killed(ledger)
    for path, content in left.items():
        path.write_bytes(content)
    SpoolLedger(spool, records.conversations).ship()
    (row,) = records.conversations.leaderboard()
    assert (row.completions, row.usage, row.thumbs_up) == (1, Usage(7, 11), 1)


def test_an_open_reservation_is_no_completion_yet_but_can_be_found(ledger: SpoolLedger, records: Database) -> None:
    reserve(ledger)
    ledger.ship()
    assert records.conversations.leaderboard() == ()
    assert ledger.find(a_completion().id) == a_completion(usage=None)


def test_a_reservation_that_a_dead_process_left_becomes_lost_even_after_its_segment_was_shipped(
    ledger: SpoolLedger, records: Database, spool: Path
) -> None:
    reserve(ledger)
    for _ in range(3):
        ledger.ship()
    killed(ledger)
    SpoolLedger(spool, records.conversations).ship()
    assert records.conversations.completion(a_completion().id).outcome is Outcome.LOST
    assert records.conversations.leaderboard() == ()


def test_an_end_in_a_later_segment_than_its_reservation_is_not_lost(records: Database, spool: Path) -> None:
    ledger = SpoolLedger(spool, records.conversations, segment_bytes=1)
    reserve(ledger)
    ledger.settle(a_completion())
    killed(ledger)
    assert len(list(spool.glob("*.log"))) == 2
    SpoolLedger(spool, records.conversations).ship()
    assert records.conversations.completion(a_completion().id) == a_completion()


def test_find_asks_memory_then_what_a_dead_process_left_then_the_database(records: Database, spool: Path) -> None:
    ledger = SpoolLedger(spool, records.conversations, remembered=1)
    for number in (1, 2):
        reserve(ledger, number)
        ledger.settle(a_completion(number))
    assert ledger.find(a_completion(2).id) == a_completion(2)
    assert ledger.find(a_completion(1).id) is None
    killed(ledger)
    again = SpoolLedger(spool, records.conversations)
    assert again.find(a_completion(1).id) == a_completion(1)
    again.ship()
    again.close()
    assert SpoolLedger(spool, records.conversations).find(a_completion(2).id) == a_completion(2)
    assert again.find(CompletionId("chatcmpl-0")) is None


def test_lines_that_are_no_records_are_put_aside_and_a_torn_last_line_is_left_out(
    ledger: SpoolLedger, records: Database, spool: Path
) -> None:
    ledger.settle(a_completion(1))
    killed(ledger)
    (segment,) = spool.glob("*.log")
    segment.write_bytes(b"\x00\x00\n" + segment.read_bytes() + b'{"kind":"settle"}\n[]\n{"kind":"vo')
    again = SpoolLedger(spool, records.conversations)
    assert (again.ship(), again.rejected) == (1, 3)
    assert (spool / "rejected" / segment.name).read_bytes() == b'\x00\x00\n{"kind":"settle"}\n[]\n'
    assert records.conversations.completion(a_completion(1).id) == a_completion(1)


def test_a_record_that_the_database_cannot_hold_never_blocks_the_others(ledger: SpoolLedger, records: Database) -> None:
    for number in range(1, 10):
        ledger.settle(a_completion(number, usage=Usage(2**70, 1) if number == 5 else Usage(1, 1)))
    assert (ledger.ship(), ledger.rejected) == (8, 1)
    assert records.conversations.leaderboard()[0].completions == 8


def test_one_process_at_a_time_holds_a_spool(ledger: SpoolLedger, records: Database, spool: Path) -> None:
    with pytest.raises(Conflict, match="another process"):
        SpoolLedger(spool, records.conversations)
    ledger.close()
    SpoolLedger(spool, records.conversations).close()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: a write that crosses it comes back short, the next one fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 30])
def test_a_full_disk_is_a_fault_and_leaves_no_half_line(ledger: SpoolLedger, records: Database, spool: Path, room: int) -> None:
    reserve(ledger)
    with room_for(ledger.backlog_bytes + room):
        appends: list[Callable[[], None]] = [
            partial(reserve, ledger, 2),
            partial(ledger.settle, a_completion()),
            partial(ledger.vote, a_vote()),
        ]
        for append in appends:
            with pytest.raises(Fault, match=f"{spool.name}.*cannot be written"):
                append()
    ledger.settle(a_completion())
    ledger.ship()
    assert ledger.rejected == 0
    assert records.conversations.leaderboard()[0].completions == 1


def test_one_thread_ships_while_others_append_and_nothing_is_lost(records: Database, spool: Path) -> None:
    ledger = SpoolLedger(spool, records.conversations, segment_bytes=10_000)
    ended = threading.Event()

    def append(first: int) -> None:
        for number in range(first, first + 300):
            reserve(ledger, number)
            ledger.settle(a_completion(number))

    def ship() -> None:
        while not ended.is_set():
            ledger.ship()

    shipping = threading.Thread(target=ship)
    appending = [threading.Thread(target=append, args=(first,)) for first in (1, 1001)]
    for thread in (shipping, *appending):
        thread.start()
    for thread in appending:
        thread.join()
    ended.set()
    shipping.join()
    ledger.ship()
    assert records.conversations.leaderboard()[0].completions == 600
    assert ledger.rejected == 0


@pytest.mark.parametrize("lines", [50, 900])
def test_a_sigkill_in_the_middle_of_appends_loses_nothing_that_was_acknowledged(records: Database, spool: Path, lines: int) -> None:
    command = [sys.executable, "-m", "tests.equipment.ledger_child", str(spool)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline().split() for _ in range(lines)]
        child.kill()
        told += [words for line in child.stdout if line.endswith("\n") and (words := line.split())]
    numbers = {verb: {int(number) for word, number in told if word == verb} for verb in ("reserved", "settled", "voted")}
    SpoolLedger(spool, records.conversations).ship()
    find = records.conversations.completion
    assert all(find(a_completion(number).id).outcome is Outcome.OK for number in numbers["settled"])
    assert all(find(a_completion(number).id).outcome is Outcome.LOST for number in numbers["reserved"] if number % 3 == 0)
    assert {a_vote(number).completion for number in numbers["voted"]} <= {
        vote.completion for vote in records.conversations.feedback(limit=9999)
    }
    assert len(numbers["settled"]) > lines / 4


def test_while_the_database_is_away_the_spool_grows_and_nothing_is_lost(
    postgres: PostgresServer, migrated_postgres: str, spool: Path
) -> None:
    with open_database(postgres.new_database(migrated_postgres)) as records:
        ledger = SpoolLedger(spool, records.conversations)
        ledger.settle(a_completion(1))
        postgres.stop()
        try:
            for number in (2, 3, 4):
                ledger.settle(replace(a_completion(number)))
                with pytest.raises(Transient):
                    ledger.ship()
            ledger.vote(a_vote(2))
            assert ledger.find(a_completion(4).id) == a_completion(4)
            assert ledger.backlog_bytes > 0
        finally:
            postgres.start()
        assert ledger.ship() == 5
        assert (records.conversations.leaderboard()[0].completions, ledger.backlog_bytes) == (4, 0)
