"""`make demo` does what it says: promoted, answered, voted, refused, rolled back; and its last line tells so."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.e2e.harness import ROOT, SEATRIAL

pytestmark = [pytest.mark.e2e, pytest.mark.vllm]


def test_the_demo_takes_three_models_through_the_main_job(capsys: pytest.CaptureFixture[str]):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SEATRIAL_")}
    ran = subprocess.run([str(SEATRIAL), "demo", "--json"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n  submission to first feedback: {told['submission_to_first_feedback_s']} s, whole demo {told['total_s']} s")  # noqa: T201
    assert (told["first"]["state"], told["feedback"]["thumb"]) == ("serving", "up")
    assert (told["second"]["state"], told["second"]["reason"]) == ("refused", "benchmark_below_stable")
    assert (told["third"]["state"], told["rollout"]["state"]) == ("rolled_back", "rolled_back")
    assert told["rollout"]["verdict"]["e_value"] > 20
    assert (told["live"]["stable_failed"], told["live"]["stable_changed_model"]) == (0, 0)
    assert told["live"]["stable_conversations"] > told["live"]["candidate_conversations"] > 0
