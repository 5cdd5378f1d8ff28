"""What an engine is started with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.engines import EngineSpec
from core.errors import Refused
from core.ids import Digest, VersionId
from core.settings import GIB
from serving.engines.files import EngineFiles
from serving.engines.launcher import VllmLauncher

SPEC = EngineSpec(VersionId("v" * 64), "file:///m%20x", "file:///nowhere", Digest("d" * 64), 1024, "bfloat16", 8 * GIB)
GIVEN = {
    "PATH": "/bin",
    "HOME": "/root",
    "SEATRIAL_HUB_TOKEN": "s",
    "HF_TOKEN": "s",
    "AWS_SECRET_ACCESS_KEY": "s",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def test_no_secret_reaches_an_engine_whose_weights_are_local() -> None:
    environ = VllmLauncher("python", "m", GIVEN).environ(SPEC)
    assert "s" not in environ.values()
    assert "PYTHONDONTWRITEBYTECODE" not in environ


def test_weights_in_s3_come_with_the_access_to_them() -> None:
    environ = VllmLauncher("python", "m", GIVEN).environ(replace(SPEC, tensors_uri="s3://b/p"))
    assert environ["AWS_SECRET_ACCESS_KEY"] == "s"
    assert "HF_TOKEN" not in environ


def test_the_command_names_folders_and_the_version() -> None:
    command = VllmLauncher("python", "m", GIVEN).command(SPEC, 8001)
    assert command[:3] == ["python", "-m", "m"]
    assert command[command.index("--model") + 1] == "/m x"
    assert command[command.index("--served-model-name") + 1] == SPEC.version
    assert command[command.index("--kv-cache-memory-bytes") + 1] == str(128 * 1024**2), "nothing is known of the weights' size"


def test_weights_by_another_scheme_are_refused() -> None:
    with pytest.raises(Refused, match="file:// and s3:// only"):
        VllmLauncher("python", "m", GIVEN).command(replace(SPEC, tensors_uri="https://x/y"), 1)


def test_a_log_that_grows_past_its_bound_keeps_its_end(tmp_path: Path) -> None:
    engine = EngineFiles(tmp_path)
    engine.log.write_text("old\n" * 1000 + "newest\n")
    engine.bound_log(limit=100)
    assert engine.log.stat().st_size == 0
    assert (tmp_path / "engine.log.1").read_text().endswith("newest\n")
