"""The reader of an engine's files: a file of another form is a Fault with its path, for every caller."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from core.engines import EnginePhase, EngineSpec
from core.errors import Fault
from core.ids import Digest, VersionId
from core.ports.clock import VirtualClock
from core.settings import GIB
from serving.engines import files
from serving.engines.files import DesiredState, EngineFiles, EngineStatus
from serving.engines.local import LocalEngines

VERSION = VersionId("a" * 64)
DESIRED = asdict(DesiredState(EngineSpec(VERSION, "s3://b/m", "s3://b/t", Digest("d" * 64), 1024, "bfloat16", 8 * GIB), attempt=1))
STATUS = asdict(EngineStatus(1, EnginePhase.READY, since=1.0))
FOREIGN: dict[str, object] = {"a list": [1], "a number": 3, "null": None, "other keys": {"pid": 1}, "a text": "ready"}
FOREIGN_DESIRED: dict[str, Any] = {
    **FOREIGN,
    "a spec that is a list": {**DESIRED, "spec": []},
    "an unknown field of the spec": {**DESIRED, "spec": {**DESIRED["spec"], "colour": "red"}},
    "an address that is a number": {**DESIRED, "spec": {**DESIRED["spec"], "model_uri": 1}},
    "an attempt that is a text": {**DESIRED, "attempt": "1"},
}
FOREIGN_STATUS: dict[str, Any] = {
    **FOREIGN,
    "an unknown phase": {**STATUS, "phase": "asleep"},
    "an unknown cause": {**STATUS, "cause": "weather"},
    "an attempt that is a text": {**STATUS, "attempt": "1"},
    "a process without a start time": {**STATUS, "process": {"pid": 1, "boot": ""}},
}
FOREIGN_SUPERVISORS = {**FOREIGN, "a text as pid": {"pid": "1", "started": 1, "boot": ""}}


@pytest.fixture
def engine(tmp_path: Path) -> EngineFiles:
    (tmp_path / VERSION).mkdir()
    return EngineFiles(tmp_path / VERSION)


@pytest.mark.parametrize("document", FOREIGN_DESIRED.values(), ids=FOREIGN_DESIRED)
def test_a_desired_state_of_another_form_is_a_fault_with_its_path(engine: EngineFiles, document: object) -> None:
    path = engine.folder / "desired.json"
    path.write_text(json.dumps(document))
    with pytest.raises(Fault, match=f"{path} cannot be read") as fault:
        engine.desired()
    assert "remove the file" in fault.value.hint


@pytest.mark.parametrize("document", FOREIGN_STATUS.values(), ids=FOREIGN_STATUS)
def test_a_status_of_another_form_is_a_fault_with_its_path(engine: EngineFiles, document: object) -> None:
    path = engine.folder / "status.json"
    path.write_text(json.dumps(document))
    with pytest.raises(Fault, match=f"{path} cannot be read"):
        engine.status()


def test_a_file_that_is_not_text_is_a_fault_with_its_path(engine: EngineFiles) -> None:
    (engine.folder / "status.json").write_bytes(b"\xff\xfe")
    with pytest.raises(Fault, match=r"status\.json cannot be read"):
        engine.status()


@pytest.mark.parametrize("document", FOREIGN_SUPERVISORS.values(), ids=FOREIGN_SUPERVISORS)
def test_an_engine_waits_for_its_supervisor_while_the_file_that_names_it_cannot_be_read(
    engine: EngineFiles, tmp_path: Path, document: object
) -> None:
    (tmp_path / "supervisor.json").write_text(json.dumps(document))
    (engine.folder / "desired.json").write_text(json.dumps(DESIRED))
    assert files.supervisor(tmp_path) is None
    assert "which is not running" in LocalEngines(tmp_path, VirtualClock()).state(VERSION).detail
