"""The platform's end of the process that computes a reference. Scripts take the place of the process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import Fault
from core.fidelity import Likely, Reference, ReferencePrompt
from registry.reference import compute_reference, read_reference, stored_reference, written
from serving.engines.programs import SpawnedPrograms
from tests.unit.test_tensorize_child import programs

KNOWN = Reference("a test", (ReferencePrompt((1, 2), (3,), ((Likely(2, -0.5),), (Likely(3, -0.1), Likely(4, -3.0)))),))


def test_a_reference_is_read_as_it_was_written() -> None:
    assert read_reference(json.loads(json.dumps(written(KNOWN)))) == KNOWN


def test_an_unavailable_reference_keeps_its_cause() -> None:
    assert read_reference(written(Reference("", unavailable="too large"))) == Reference("", unavailable="too large")


def test_the_document_of_the_process_becomes_a_reference(tmp_path: Path) -> None:
    script = f"cat > $6 <<'EOF'\n{json.dumps(written(KNOWN))}\nEOF"
    compute_reference(tmp_path, tmp_path / "out.json", programs(tmp_path, script), 1000)
    assert stored_reference(tmp_path / "out.json") == KNOWN


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Traceback' >&2; echo 'KeyError: llama9' >&2; exit 1", "KeyError: llama9"),
        ("kill -9 $$", "SIGKILL"),
        ("""echo '{"unavailable": "too_large", "what": "140 GB"}' > $6""", "140 GB"),
    ],
)
def test_a_model_without_a_reference_is_no_error(tmp_path: Path, script: str, why: str) -> None:
    compute_reference(tmp_path, tmp_path / "out.json", programs(tmp_path, script), 1000)
    made = stored_reference(tmp_path / "out.json")
    assert made.prompts == ()
    assert why in made.unavailable


def test_a_missing_interpreter_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="does not exist"):
        compute_reference(tmp_path, tmp_path / "out.json", SpawnedPrograms(str(tmp_path / "none")), 1000)


def test_a_process_that_was_killed_is_started_once_more(tmp_path: Path) -> None:
    script = f"""if [ -e {tmp_path}/tried ]; then cat > $6 <<'EOF'
{json.dumps(written(KNOWN))}
EOF
else touch {tmp_path}/tried; kill -9 $$; fi"""
    compute_reference(tmp_path, tmp_path / "out.json", programs(tmp_path, script), 1000)
    assert stored_reference(tmp_path / "out.json") == KNOWN


def test_a_process_that_goes_on_for_ever_is_ended_at_the_limit(tmp_path: Path) -> None:
    compute_reference(tmp_path, tmp_path / "out.json", programs(tmp_path, "exec sleep 600"), 1000, limit_s=0.2)
    assert stored_reference(tmp_path / "out.json").unavailable == "transformers took longer than 0.2 s"
