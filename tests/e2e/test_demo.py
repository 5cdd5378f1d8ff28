"""`make demo` shows what it promises: promoted, answered, voted, refused, rolled back, SmolLM2 asked; and leaves no file behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, SEATRIAL
from tests.equipment.real_model import absent

pytestmark = [pytest.mark.e2e, pytest.mark.vllm]
LIMIT_S = 1500


def test_the_demo_takes_the_models_through_the_main_job(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SEATRIAL_")} | {"TMPDIR": str(tmp_path)}
    command = [str(SEATRIAL), "demo", "--json"]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    real = told["real"]
    with capsys.disabled():
        print(f"\n  submission to first feedback: {told['submission_to_first_feedback_s']} s, whole demo {told['total_s']} s")  # noqa: T201
    assert (told["first"]["state"], told["feedback"]["thumb"]) == ("serving", "up")
    assert told["first"]["numbers"]["fidelity"]["positions"] > 100, "the engine was not compared with the reference"
    assert (told["second"]["state"], told["second"]["reason"]) == ("refused", "benchmark_below_stable")
    assert (told["third"]["state"], told["rollout"]["state"]) == ("rolled_back", "rolled_back")
    assert told["rollout"]["verdict"]["e_value"] > 20
    assert (told["live"]["stable_failed"], told["live"]["stable_changed_model"]) == (0, 0)
    assert told["live"]["stable_conversations"] > told["live"]["candidate_conversations"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == []
    if real["state"] == "not_available":
        absent(real["message"])
    assert real["answers"][0]["answer"] == "The capital of France is Paris."
    assert real["answers"][0]["tokens_per_s"] > 0
    assert real["numbers"]["fidelity"]["positions"] > 100
    assert "The capital of France is Paris." in ran.stderr
