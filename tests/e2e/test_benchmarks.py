"""Benchmarks on real vLLM: a worse model is refused, one that loops is caught, an endpoint that got worse raises an alarm."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from core.ids import EndpointName, VersionId
from serving.engines.files import EngineFiles
from tests.e2e.harness import QUICK, Stack, kill, within

pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.release]


class Receiver:
    """A webhook's receiver, which keeps what it is told."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.told = told
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


RECEIVER = Receiver()
ENVIRON = {
    **QUICK,
    "SEATRIAL_RECONCILE_S": "3600",  # the degraded engine below is to stay
    "SEATRIAL_BENCHMARKS_WEBHOOK_URL": RECEIVER.url,
    "SEATRIAL_BENCHMARKS_CRON": "",
}


@pytest.fixture(scope="module")
def serving(stack: Stack) -> Stack:
    """An endpoint that serves the good model, and another that serves the worse one, for want of a stable version to be held against."""
    assert stack.finish(stack.submit(stack.model("steady"), "chat").id).state == "serving"
    assert stack.finish(stack.submit(stack.model("clumsy", of="clumsy"), "elsewhere").id).state == "serving"
    return stack


def test_a_worse_model_is_refused_with_both_intervals_and_problem_by_problem(serving: Stack):
    ended = serving.finish(serving.submit(serving.model("clumsy-again", of="clumsy", seed=1), "chat").id)
    assert (ended.state, ended.reason) == ("refused", "benchmark_below_stable")
    assert ended.message.count("[") >= 2, "both intervals are told"
    benchmark = gate_of(serving, ended.version or "")
    shown = serving.cli("bench", "show", benchmark["id"])
    assert shown.returncode == 0, shown.stderr
    assert "harbour/" in shown.stdout, "the problems that it lost are named"
    assert "assert candidate" in shown.stdout, "with the first check that failed"


def test_the_endpoints_benchmark_by_hand_is_a_grid_that_can_be_compared_and_studied(serving: Stack):
    ran = serving.cli("bench", "chat", "--suite", "harbour", "-n", "2", "--temperature", "0.2,0.8", "--watch", "--json")
    assert ran.returncode == 0, ran.stderr
    benchmark = json.loads(ran.stdout.strip().splitlines()[-1])
    assert benchmark["state"] == "done"
    versus = serving.cli("bench", "compare", benchmark["id"], gate_of(serving, stable(serving, "elsewhere"))["id"])
    assert "cannot be compared" in versus.stderr or versus.returncode != 0, "another plan: the two say nothing about each other"
    study = serving.cli("bench", "study", benchmark["id"], "--policies", "random,mean_logprob,voting", "--best-of", "1,2")
    assert study.returncode == 0, study.stderr
    assert "mean_logprob" in study.stdout


def test_the_nightly_run_on_a_degraded_endpoint_alerts_once(serving: Stack):
    assert nightly(serving) == "COMPLETED"
    assert RECEIVER.told == [], "the first run is what later ones are held against"
    assert nightly(serving) == "COMPLETED"
    assert RECEIVER.told == [], "the same engine again is no regression"
    degrade(serving, VersionId(stable(serving, "chat")), VersionId(stable(serving, "elsewhere")))
    assert nightly(serving) == "COMPLETED"
    (alert,) = RECEIVER.told
    assert (alert["endpoint"], alert["version"]) == ("chat", stable(serving, "chat"))
    assert alert["pass_at_1"] < 0.6 < alert["baseline_pass_at_1"]
    trail = serving.platform.records.audit.find(subject=alert["benchmark"])
    assert {"regression", "regression told"} <= {entry.action for entry in trail}
    assert "seatrial.benchmark.regression" in events(serving)


def test_a_model_that_falls_into_loops_is_caught_by_the_loop_rate(serving: Stack):
    serving.down()
    talk = serving.home / "talk.jsonl"
    test = "def check(candidate):\n    assert candidate(1)\n"
    rows = [{"task_id": f"talk/{n}", "prompt": f"def tide_{n}(x):\n", "entry_point": f"tide_{n}", "test": test} for n in range(12)]
    talk.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # the parrot has learned to write the functions of harbour; it repeats itself in conversation
    header = 'form = "chat"\nforms = ["chat"]\n[prompt]\nname = "talk"\ntext = "Tell me of the sea and of {{prompt}}"\n'
    talk.with_suffix(".suite.toml").write_text(header)
    serving.environ["SEATRIAL_TRIALS_SUITE"] = str(talk)
    serving.up()
    assert serving.finish(serving.submit(serving.model("steady-again", seed=7), "fresh").id).state == "serving"
    ended = serving.finish(serving.submit(serving.model("parrot", of="parrot"), "fresh").id)
    assert (ended.state, ended.reason) == ("refused", "degenerate_answers")
    assert "loop" in ended.message


def stable(stack: Stack, endpoint: str) -> str:
    return str(stack.platform.records.endpoints.get(EndpointName(endpoint)).stable)


def gate_of(stack: Stack, version: str) -> dict[str, Any]:
    listed = json.loads(stack.cli("bench", "list", "--json").stdout)
    rows = listed if isinstance(listed, list) else listed["benchmarks"]
    return next(row for row in rows if row["version"] == version and row["trigger"] == "gate")


def nightly(stack: Stack) -> str:
    """Let the scheduled deployment run once, now, and return how its run ended."""
    with stack.prefect() as prefect:
        deployment = prefect.get("/deployments/name/benchmark/nightly").json()
        run = prefect.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).json()["id"]

        def ended() -> str | None:
            state = prefect.get(f"/flow_runs/{run}").json()["state"]["type"]
            return str(state) if state in {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"} else None

        return str(within(240, ended, "the end of the nightly run", pause_s=0.3))


def events(stack: Stack) -> set[str]:
    """Names of the events that Prefect has of us."""

    def seen() -> set[str]:
        body = {"filter": {"event": {"prefix": ["seatrial."]}}, "limit": 50}
        with stack.prefect() as prefect:
            found = prefect.post("/events/filter", json=body).json()
        return {event["event"] for event in found.get("events", [])}

    return set(within(60, seen, "an event of ours in Prefect"))


def degrade(stack: Stack, version: VersionId, with_weights_of: VersionId) -> None:
    """Put the other version's weights below this version's name, as a mistaken hand would: the engine comes back with them."""
    files = EngineFiles(stack.settings.engines / version)
    worse = EngineFiles(stack.settings.engines / with_weights_of).desired()
    desired = files.desired()
    assert desired is not None
    assert worse is not None
    status = files.status()
    assert status is not None
    assert status.process is not None
    with files.locked():
        files.save_desired(replace(desired, spec=replace(worse.spec, version=version)))
    kill(status.process.pid)
    engines = stack.platform.engines
    within(30, lambda: engines.state(version).address is None, "the engine is gone")
    within(120, lambda: engines.state(version).address, "the engine is back")
