"""A home that was backed up while it ran serves again under another path, and its Prefect page stays quiet."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.engines import EnginePhase
from core.ids import VersionId
from tests.e2e.harness import FAKE_ENGINE, QUICK, SEATRIAL, Stack, within

pytestmark = pytest.mark.e2e
ENVIRON = {**FAKE_ENGINE, **QUICK}


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack on a backup of a stack whose home is gone."""
    root = tmp_path_factory.mktemp("restore")
    first = root / "first"
    first.mkdir()
    with Stack(first, ENVIRON) as stack:
        assert stack.finish(stack.submit(stack.model("steady"), "chat").id).state == "serving"
        made = stack.cli("backup", str(root / "backup"), "--json")
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["elsewhere"] == []
    shutil.rmtree(first)
    moved = root / "moved" / "to another place"
    done = subprocess.run(
        [str(SEATRIAL), "restore", str(root / "backup"), "--home", str(moved)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Stack(moved, ENVIRON) as stack:
        yield stack


def answers(stack: Stack) -> bool:
    """Return whether the endpoint answers at the gateway."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    headers = {"Authorization": f"Bearer {stack.secret}"}
    try:
        return httpx.post(f"{stack.settings_url('gateway')}/v1/chat/completions", json=body, headers=headers, timeout=30).is_success
    except httpx.TransportError:
        return False


def test_a_restored_home_serves_under_another_path(restored: Stack) -> None:
    within(120, lambda: answers(restored), "the restored endpoint answers", pause_s=0.5)


def test_submitting_what_it_serves_brings_a_lost_engine_back(restored: Stack) -> None:
    version = VersionId(restored.platform.records.endpoints.list()[0].stable or "")
    restored.platform.engines.stop(version, drain_s=0.0)
    ended = restored.finish(restored.submit(restored.model("steady"), "chat").id)
    assert ended.state == "serving"
    assert restored.platform.engines.state(version).phase is EnginePhase.READY
    within(60, lambda: answers(restored), "it answers", pause_s=0.5)


def test_prefect_shows_no_run_of_reconcile(restored: Stack) -> None:
    within(60, lambda: (lease := restored.platform.records.leases.get("reconcile")) and lease.ended_at, "a pass was made")
    with restored.prefect() as prefect:
        names = {flow["name"] for flow in prefect.post("/flows/filter", json={}).json()}
    assert "deploy-model" in names
    assert "reconcile" not in names


def test_gc_names_what_it_keeps_and_why(restored: Stack) -> None:
    shown = restored.cli("gc", "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    weights = [item for item in json.loads(shown.stdout) if item["kind"] == "weights"]
    assert {item["action"] for item in weights} == {"keep"}
    assert "chat serves it" in {item["why"] for item in weights}
    assert Path(restored.home, "weights/bundles").is_dir()
