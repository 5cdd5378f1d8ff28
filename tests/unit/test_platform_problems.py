"""What the control API reports as wrong: one situation per kind of problem, and none where all is well."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest

from core.access import Role
from core.benchmarks import BenchmarkState, Trigger
from core.conversations import Outcome
from core.endpoints import Rollout, RolloutState, Verdict
from core.engines import EngineSpec
from core.health import SEVERITY, Disk, Problem, ProblemKind, Service, Severity, Spool
from core.ids import Digest, Epoch, RolloutId, SubmissionId
from core.ports.clock import VirtualClock
from core.submissions import Submission, SubmissionState
from core.versions import Decision
from registry.database import Database, migrate, open_database
from seatrial.cli import main
from serving.control.health_probes import LocalHealthProbes
from serving.control.platform_problems import ProblemFinder, ProblemThresholds
from tests.equipment.control_env import control_env
from tests.equipment.fakes import FakeEngines
from tests.equipment.rows import open_rollout, put_submission
from tests.equipment.samples import CHAT, NOW, STABLE, a_benchmark, a_completion, a_request, a_rollout, an_assignment

HOUR = 3600.0


@dataclass
class ProbesDouble:
    """Probes that find no problem, unless a test changes a result."""

    answers: tuple[Service, ...] = (Service("prefect", "http://prefect"), Service("mlflow", "http://mlflow"))
    seen: Epoch | None = NOW
    room: Disk | None = None
    waiting: Spool | None = None

    def services(self) -> tuple[Service, ...]:
        return self.answers

    def runner_seen(self) -> Epoch | None:
        return self.seen

    def disk(self) -> Disk | None:
        return self.room

    def spool(self) -> Spool | None:
        return self.waiting


@dataclass
class Scene:
    """A platform at NOW with one endpoint that serves, and a way to ask what is wrong."""

    records: Database
    engines: FakeEngines
    probes: ProbesDouble
    clock: VirtualClock

    def problems(self) -> tuple[Problem, ...]:
        return ProblemFinder(self.records, self.engines, self.clock, self.probes, ProblemThresholds()).problems()

    def kinds(self) -> list[ProblemKind]:
        return [problem.kind for problem in self.problems()]

    def only(self, kind: ProblemKind) -> Problem:
        (found,) = self.problems()
        assert found.kind is kind
        return found

    def submission(self, state: SubmissionState, at: Epoch = NOW, **fields: Any) -> Submission:
        row = self.records.submissions.create(a_request(), self.records.access.principal("ann", at).id, at)
        return put_submission(self.records, row.id, at, state=state, **fields)

    def serve(self) -> None:
        """Let the endpoint serve STABLE."""
        self.records.endpoints.ensure(CHAT, NOW)
        self.rollout(state=RolloutState.PROMOTED, candidate=STABLE, id=RolloutId("ro-0"), submission=SubmissionId("sub-0"))

    def rollout(self, **fields: Any) -> Rollout:
        wanted = a_rollout(**fields)
        opened = open_rollout(self.records, **fields | {"state": RolloutState.DARK, "share": 0.0, "verdict": None})
        return self.records.rollouts.store(replace(wanted, revision=opened.revision))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with staged_scene(tmp_path) as found:
        yield found


@contextmanager
def staged_scene(folder: Path) -> Iterator[Scene]:
    url = f"sqlite:///{folder / 'scene.db'}"
    migrate(url)
    clock = VirtualClock(NOW)
    with open_database(url) as records:
        yield Scene(records, FakeEngines(clock), ProbesDouble(), clock)


def test_a_platform_on_which_all_is_well_has_no_problems(scene: Scene) -> None:
    scene.serve()
    ready(scene)
    assert scene.problems() == ()


def test_a_service_that_does_not_answer_is_named(scene: Scene) -> None:
    scene.probes.answers = (Service("mlflow", "http://mlflow", "http://mlflow/health does not answer: refused"),)
    found = scene.only(ProblemKind.SERVICE_DOWN)
    assert (found.subject, found.severity) == ("mlflow", Severity.CRITICAL)


@pytest.mark.parametrize("seen", [None, NOW - 600], ids=["never", "ten minutes ago"])
def test_a_runner_that_asks_for_no_work_is_silent(scene: Scene, seen: Epoch | None) -> None:
    scene.probes.seen = seen
    assert scene.only(ProblemKind.RUNNER_SILENT).since == seen


def test_a_runner_is_not_judged_while_prefect_cannot_be_asked(scene: Scene) -> None:
    scene.probes.seen = None
    scene.probes.answers = (Service("prefect", "http://prefect", "http://prefect/health does not answer"),)
    assert scene.kinds() == [ProblemKind.SERVICE_DOWN]


def test_a_failed_engine_is_reported_with_its_cause_and_the_log_of_who_brought_it(scene: Scene) -> None:
    brought = scene.submission(SubmissionState.SERVING, version=STABLE)
    scene.serve()
    ready(scene)
    scene.engines.fail(STABLE, "killed by SIGKILL, probably out of memory")
    found = scene.only(ProblemKind.ENGINE_FAILED)
    assert found.subject == "chat"
    assert "out of memory" in found.cause
    assert found.action == f"seatrial logs {brought.id}"


def test_an_endpoint_whose_engine_is_not_there_is_not_ready(scene: Scene) -> None:
    scene.serve()
    assert scene.only(ProblemKind.ENDPOINT_NOT_READY).subject == "chat"


@pytest.mark.parametrize(("failed", "reported"), [(2, True), (1, False)])
def test_an_endpoint_that_fails_more_than_the_limit_now_is_reported(scene: Scene, failed: int, *, reported: bool) -> None:
    scene.serve()
    ready(scene)
    answers = [a_completion(n, started_at=NOW, outcome=Outcome.ENGINE_ERROR if n < failed else Outcome.OK) for n in range(10)]
    scene.records.conversations.record([an_assignment(assigned_at=NOW)], answers, [])
    assert scene.kinds() == ([ProblemKind.ERRORS_HIGH] if reported else [])
    scene.clock.wait(HOUR)
    scene.probes.seen = scene.clock.now()
    assert scene.kinds() == []


@pytest.mark.parametrize("state", [SubmissionState.QUEUED, SubmissionState.RUNNING])
def test_a_submission_that_nobody_drives_is_stuck(scene: Scene, state: SubmissionState) -> None:
    row = scene.submission(state, NOW - HOUR)
    found = scene.only(ProblemKind.SUBMISSION_STUCK)
    assert (found.subject, found.since) == (row.id, NOW - HOUR)
    assert "1 h 0 min" in found.cause


def test_a_submission_that_is_driven_is_no_problem(scene: Scene) -> None:
    scene.submission(SubmissionState.RUNNING, NOW - HOUR, lease_until=NOW + 10)
    assert scene.problems() == ()


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (SubmissionState.FAILED, ProblemKind.SUBMISSION_FAILED),
        (SubmissionState.REFUSED, ProblemKind.SUBMISSION_REFUSED),
        (SubmissionState.ROLLED_BACK, ProblemKind.ROLLED_BACK),
    ],
)
def test_the_last_submission_of_an_endpoint_is_reported_for_a_day_when_it_ended_badly(
    scene: Scene, state: SubmissionState, kind: ProblemKind
) -> None:
    scene.submission(state, message="3 tensors hold NaN")
    found = scene.only(kind)
    assert "org/model@main -> chat: 3 tensors hold NaN" in found.cause
    scene.clock.wait(25 * HOUR)
    scene.probes.seen = scene.clock.now()
    assert scene.kinds() == []


def test_a_failed_submission_is_history_once_a_later_one_serves(scene: Scene) -> None:
    scene.submission(SubmissionState.FAILED, NOW - 60)
    put_submission(scene.records, another(scene).id, NOW, state=SubmissionState.SERVING)
    assert scene.problems() == ()


def test_a_rollout_without_data_is_held(scene: Scene) -> None:
    verdict = Verdict(Decision.INCONCLUSIVE, "3 of 12 conversations")
    shifting(scene, step_started_at=NOW - 1000, started_at=NOW - 1000, deadline=NOW + 9 * HOUR, verdict=verdict)
    assert "at 25.0 % for 16 min 40 s: 3 of 12 conversations" in scene.only(ProblemKind.ROLLOUT_HELD).cause


@pytest.mark.parametrize("left", [50.0, -30.0])
def test_a_rollout_near_or_past_its_deadline_is_reported(scene: Scene, left: float) -> None:
    shifting(scene, step_started_at=NOW - 10, started_at=NOW - HOUR, deadline=NOW + left)
    assert scene.only(ProblemKind.ROLLOUT_NEAR_DEADLINE).subject == "ro-1"


def test_a_rollout_whose_driver_is_gone_is_reported(scene: Scene) -> None:
    shifting(scene, step_started_at=NOW - 200, started_at=NOW - 200, deadline=NOW + 9 * HOUR, lease_until=NOW - 190)
    assert "has had no driver for 3 min 10 s" in scene.only(ProblemKind.ROLLOUT_UNDRIVEN).cause


def test_a_regression_is_reported_until_the_version_is_replaced(scene: Scene) -> None:
    scene.serve()
    ready(scene)
    scene.records.benchmarks.create(scheduled(state=BenchmarkState.DONE, decision=Decision.FAIL, reason="12 points lower"))
    assert "chat became worse on harbour: 12 points lower" in scene.only(ProblemKind.REGRESSION).cause
    scene.records.benchmarks.create(scheduled(2, state=BenchmarkState.DONE, decision=Decision.PASS))
    assert scene.problems() == ()


def test_a_scheduled_benchmark_that_could_not_run_is_reported(scene: Scene) -> None:
    scene.serve()
    ready(scene)
    scene.records.benchmarks.create(scheduled(state=BenchmarkState.FAILED, reason="no engine"))
    assert scene.only(ProblemKind.BENCHMARK_FAILED).subject == "bm-1"


def test_a_benchmark_that_nobody_drives_is_stuck(scene: Scene) -> None:
    scene.records.benchmarks.create(a_benchmark(1, started_at=NOW - HOUR, updated_at=NOW - HOUR, lease_until=NOW - HOUR))
    assert scene.only(ProblemKind.BENCHMARK_STUCK).subject == "bm-1"


def test_a_disk_that_is_almost_full_is_reported_in_units_that_people_read(scene: Scene) -> None:
    scene.probes.room = Disk(512 * 1024**2, 100 * 1024**3)
    assert "512 MiB of 100 GiB are free" in scene.only(ProblemKind.DISK_LOW).cause
    scene.probes.room = Disk(50 * 1024**3, 100 * 1024**3)
    assert scene.problems() == ()


def test_metering_that_waits_long_for_the_database_is_reported(scene: Scene) -> None:
    scene.probes.waiting = Spool(2 * 1024**2, NOW - 600)
    assert "2 MiB of metering have waited for the database for 10 min 0 s" in scene.only(ProblemKind.SPOOL_BACKLOG).cause


def test_metering_that_was_put_aside_is_reported(scene: Scene) -> None:
    scene.probes.waiting = Spool(rejected_lines=3)
    assert "3 lines" in scene.only(ProblemKind.SPOOL_REJECTED).cause


def test_the_most_urgent_problems_come_first(scene: Scene) -> None:
    scene.submission(SubmissionState.REFUSED)
    scene.probes.waiting = Spool(rejected_lines=3)
    scene.probes.seen = None
    assert [problem.severity for problem in scene.problems()] == [Severity.CRITICAL, Severity.WARNING, Severity.NOTICE]


def test_every_kind_has_a_severity() -> None:
    assert set(SEVERITY) == set(ProblemKind)


def test_every_action_is_a_command_that_parses(scene: Scene) -> None:
    scene.submission(SubmissionState.FAILED, version=STABLE)
    scene.serve()
    scene.probes.seen, scene.probes.waiting, scene.probes.room = None, Spool(1, NOW - HOUR, 1), Disk(1, 100)
    scene.records.benchmarks.create(scheduled(state=BenchmarkState.DONE, decision=Decision.FAIL, reason="lower"))
    answers = [a_completion(n, started_at=NOW, outcome=Outcome.ENGINE_ERROR) for n in range(10)]
    scene.records.conversations.record([an_assignment(assigned_at=NOW)], answers, [])
    shifting(scene, step_started_at=NOW - 2 * HOUR, started_at=NOW - 3 * HOUR, deadline=NOW)
    found = scene.problems()
    assert len({problem.action.split()[1] for problem in found}) > 4
    for problem in found:
        parses(problem.action)


def test_the_route_is_for_operators_only(tmp_path: Path) -> None:
    with control_env(tmp_path) as env:
        answer = env.client(Role.OPERATOR).get("/v1/problems")
        assert (answer.status_code, answer.json()["healthy"]) == (200, False), "no flow runner has left a heartbeat"
        assert answer.json()["problems"][0]["kind"] == "runner_silent"
        assert env.client(Role.SUBMITTER).get("/v1/problems").status_code == 403


@pytest.mark.parametrize("body", [b"<html>not Prefect</html>", b"[]", b'{"last_polled": 3}', b"{}"])
def test_what_is_not_prefect_at_its_address_has_seen_no_runner(tmp_path: Path, body: bytes) -> None:
    with answering(body) as url:
        assert LocalHealthProbes({}, f"{url}/api", tmp_path, tmp_path / "spool").runner_seen() is None


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_services_that_do_not_answer_and_the_spool_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "spool" / "rejected").mkdir(parents=True)
    (tmp_path / "spool" / "0000000001.log").write_text("line\n")
    (tmp_path / "spool" / "0000000002.log").touch()
    (tmp_path / "spool" / "rejected" / "0000000001.log").write_text("a\nb\n")
    probes = LocalHealthProbes({"mlflow": "http://127.0.0.1:9/health"}, "http://127.0.0.1:9/api", tmp_path, tmp_path / "spool")
    (service,) = probes.services()
    assert service.cause.startswith("http://127.0.0.1:9/health does not answer")
    assert probes.runner_seen() is None
    spool, disk = probes.spool(), probes.disk()
    assert spool is not None
    assert (spool.waiting_bytes, spool.rejected_lines) == (5, 2)
    assert disk is not None
    assert 0 < disk.free_bytes < disk.total_bytes


def parses(action: str) -> None:
    """Fail unless an action is a command of ours with arguments that it takes."""
    words = shlex.split(action)
    assert words[0] == "seatrial"
    ctx = main.make_context("seatrial", words[1:], resilient_parsing=False)
    name, command, rest = main.resolve_command(ctx, words[1:])
    assert command is not None
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(name, list(rest), parent=ctx)


def ready(scene: Scene) -> None:
    """Let the engine of STABLE be ready."""
    scene.engines.apply(EngineSpec(STABLE, "file:///m", "file:///t", Digest("0" * 64), 1024, "bfloat16", 2**30))


def shifting(scene: Scene, **fields: Any) -> Rollout:
    """Open a rollout of a candidate with a quarter of the conversations; its driver lives unless it is told otherwise."""
    scene.records.endpoints.ensure(CHAT, NOW)
    return scene.rollout(**{"state": RolloutState.SHIFTING, "share": 0.25, "step": 2, "lease_until": NOW + 10, **fields})


def scheduled(number: int = 1, **fields: Any) -> Any:
    """Return a nightly benchmark of STABLE on the endpoint that has ended."""
    return a_benchmark(number, trigger=Trigger.SCHEDULE, ended_at=NOW + number, **fields)


def another(scene: Scene) -> Submission:
    """Enter a later submission to the same endpoint."""
    return scene.records.submissions.create(a_request(note="again"), scene.records.access.principal("ann", NOW).id, NOW)
