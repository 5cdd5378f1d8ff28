"""What a submitter reads about an engine that does not start: the cause, who can remove it, and how long was waited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.engines import EngineCause, Responsible
from core.errors import Refused
from core.ids import VersionId
from serving.engines.kubernetes.reading import Patience, read_state
from tasks.start import await_ready, engine_spec
from tests.equipment.bench_env import BenchEnv
from tests.equipment.samples import a_version

VERSION = VersionId("a" * 64)
T0 = "2026-11-21T10:00:00Z"


@pytest.fixture
def env(tmp_path: Path) -> BenchEnv:
    env = BenchEnv(tmp_path)
    env.records.versions.put(a_version(id=VERSION, commit=VERSION[:40]))
    env.engines.apply(engine_spec(env.here, env.records.versions.get(VERSION)))
    return env


def refusal(env: BenchEnv) -> Refused:
    with pytest.raises(Refused) as refused:
        await_ready(env.here, VERSION)
    return refused.value


@pytest.mark.parametrize(
    ("cause", "asked"),
    [
        (EngineCause.IMAGE, "ask the platform's operator: the cause is not the model"),
        (EngineCause.CONTAINER, "ask the platform's operator: the cause is not the model"),
        (EngineCause.WEIGHTS_UNREADABLE, "ask the platform's operator: the cause is not the model"),
        (EngineCause.ILLEGAL_INSTRUCTION, "run `seatrial doctor` on the engine's machine"),
        (EngineCause.BUS_ERROR, "make room in /dev/shm"),
        (EngineCause.WEIGHTS_REFUSED, "correct the model"),
        (EngineCause.UNSUPPORTED_ARCHITECTURE, "correct the model"),
        (EngineCause.KILLED, "SEATRIAL_MODELS_ENGINE_MEMORY_BYTES"),
        (EngineCause.EXCEPTION, "or ask the operator"),
        (EngineCause.UNKNOWN, "or ask the operator"),
    ],
)
def test_the_hint_follows_from_the_cause_and_not_from_the_words(env: BenchEnv, cause: EngineCause, asked: str) -> None:
    env.engines.fail(VERSION, "words that nobody reads", cause)
    error = refusal(env)
    assert (error.reason, "words that nobody reads" in error.what) == ("engine_failed", True)
    assert asked in error.hint


def test_every_cause_has_somebody_who_can_remove_it() -> None:
    assert {cause.responsible for cause in EngineCause} == set(Responsible)


def test_on_one_machine_a_start_has_its_limit(env: BenchEnv) -> None:
    env.engines.sleep(VERSION)
    assert "was not ready after 600 s: asleep" in refusal(env).what


def test_on_a_cluster_a_node_that_is_added_and_an_image_that_is_pulled_are_no_part_of_the_start(
    env: BenchEnv,
) -> None:
    env.here.settings = replace(env.here.settings, engines_url="kubernetes://seatrial")
    env.engines.sleep(VERSION)
    error = refusal(env)
    assert (error.reason, "was not ready after 1500 s" in error.what) == ("engine_start_timeout", True)
    assert "ask the platform's operator" in error.hint


def pending(reason: str, **more: Any) -> dict[str, Any]:
    container = {"name": "engine", "state": {"waiting": {"reason": reason, "message": "words"}}}
    status = {"phase": "Pending", "startTime": T0, "containerStatuses": [container], **more}
    return {"metadata": {"name": "pod", "creationTimestamp": T0}, "status": status}


UNPLACED = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available", "lastTransitionTime": T0}


@pytest.mark.parametrize(
    "pod",
    [
        pending("ImagePullBackOff"),
        pending("InvalidImageName"),
        pending("CreateContainerConfigError"),
        pending("ContainerCreating"),
        pending("", conditions=[UNPLACED]),
        None,
    ],
)
def test_what_a_pod_waits_for_is_the_operators(pod: dict[str, Any] | None) -> None:
    live = {"metadata": {"name": "engine", "creationTimestamp": T0}, "spec": {"replicas": 1}}
    state = read_state(VERSION, live, [pod] if pod else [], 1795255230.0, address=None, patience=Patience())
    assert state.cause is not None
    assert state.cause.responsible is Responsible.OPERATOR, state.detail
