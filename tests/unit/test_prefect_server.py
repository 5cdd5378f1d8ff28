"""Prefect's server on SQLite, as the embedded stack starts it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.equipment.prefect_server import prefect_server

pytestmark = pytest.mark.slow
_STATES = ("PENDING", "RUNNING", "COMPLETED")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    with prefect_server(home) as url:
        yield url


def test_clients_that_write_at_the_same_time_are_all_answered(server: str) -> None:
    flow = httpx.post(f"{server}/flows/", json={"name": "busy"}, timeout=60).raise_for_status().json()["id"]

    def write(_client: int) -> Counter[int]:
        with httpx.Client(base_url=server, timeout=None) as client:
            answers = []
            for _ in range(25):
                run = client.post("/flow_runs/", json={"flow_id": flow, "state": {"type": "SCHEDULED"}})
                answers += [run] + [
                    client.post(f"/flow_runs/{run.json().get('id')}/set_state", json={"state": {"type": s}}) for s in _STATES
                ]
            return Counter(answer.status_code for answer in answers)

    with ThreadPoolExecutor(4) as clients:
        answers = sum(clients.map(write, range(4)), Counter[int]())
    assert answers == {201: 4 * 25 * (1 + len(_STATES))}


def test_a_write_that_waits_for_the_lock_gives_up_and_other_requests_are_answered_meanwhile(server: str, home: Path) -> None:
    with closing(sqlite3.connect(home / "prefect.db", isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(httpx.post, f"{server}/flows/", json={"name": "late"}, timeout=None)
        assert httpx.post(f"{server}/flows/filter", json={}, timeout=None).is_success
        assert not waiting.done()
        assert waiting.result().status_code == httpx.codes.SERVICE_UNAVAILABLE
        other.execute("ROLLBACK")
    assert httpx.post(f"{server}/flows/", json={"name": "late"}, timeout=60).is_success
