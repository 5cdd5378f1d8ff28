"""The contract of ModelRegistry, on a real MLflow server and on the double that unit tests use."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import httpx
import pytest

from core.errors import NotFound, Transient
from core.ids import Digest, EndpointName, VersionId
from core.ports import ModelRegistry
from core.shown import _LABELS
from core.versions import Decision, EngineNeeds, FileDigest, ModelVersion, TrialKind, TrialReport
from registry.models import MlflowModels
from tests.equipment.fakes import FakeModels
from tests.equipment.mlflow_server import at_once

CHAT = EndpointName("chat")


@pytest.fixture(params=["fake", "mlflow"])
def models(request: pytest.FixtureRequest) -> ModelRegistry:
    if request.param == "fake":
        return FakeModels()
    return MlflowModels(request.getfixturevalue("mlflow_url"))


def version(letter: str) -> ModelVersion:
    files = (FileDigest("config.json", 3, Digest("d" * 64)),)
    needs = EngineNeeds("LlamaForCausalLM", "bfloat16", 1000, 1024)
    tensors, manifest = Digest("e" * 64), Digest("f" * 64)
    return ModelVersion(VersionId(letter * 64), "org/m", "c" * 40, files, tensors, manifest, "mit", None, needs, 1_700_000_000.0)


def report(of: ModelVersion) -> TrialReport:
    return TrialReport(of.id, TrialKind.BENCHMARK, "k", Decision.PASS, (), {"pass_at_1": 0.5}, at=1_700_000_000.0)


def test_a_version_is_entered_once_however_often_it_is_registered(models: ModelRegistry):
    endpoint = EndpointName("once")
    first = models.register(endpoint, version("a"), [report(version("a"))], {"submission": "http://x/1"}, "seatrial:/versions/a")
    again = models.register(endpoint, version("a"), [], {}, "seatrial:/versions/a")
    assert (first.number, again, first.uri) == (1, first, "models:/once/1")


def test_versions_that_are_registered_at_once_for_a_new_endpoint_are_all_there(models: ModelRegistry):
    endpoint = EndpointName("rush")
    made = at_once(4, lambda number: models.register(endpoint, version("abcd"[number]), [], {}, "seatrial:/versions/x"))
    assert sorted(one.number for one in made) == [1, 2, 3, 4]


def test_another_version_gets_the_next_number(models: ModelRegistry):
    endpoint = EndpointName("two")
    models.register(endpoint, version("a"), [], {}, "seatrial:/versions/a")
    assert models.register(endpoint, version("b"), [], {}, "seatrial:/versions/b").number == 2


def test_aliases_can_be_set_moved_and_removed_twice(models: ModelRegistry):
    endpoint = EndpointName("aliases")
    for letter in "ab":
        models.register(endpoint, version(letter), [], {}, f"seatrial:/versions/{letter}")
    for _ in range(2):
        models.mark(endpoint, champion=version("a").id, challenger=version("b").id)
        models.mark(endpoint, champion=version("b").id, challenger=None)


def test_aliases_can_be_set_and_removed_by_several_processes_at_once(models: ModelRegistry):
    for number in range(4):
        endpoint = EndpointName(f"alias-rush-{number}")
        models.register(endpoint, version("a"), [], {}, "seatrial:/versions/a")
        mark_at_once(models, endpoint, version("a").id)
        mark_at_once(models, endpoint, None)


def mark_at_once(models: ModelRegistry, endpoint: EndpointName, marked: VersionId | None) -> None:
    at_once(8, lambda _number: models.mark(endpoint, champion=marked, challenger=marked))


def test_a_version_that_was_never_registered_cannot_be_marked(models: ModelRegistry):
    endpoint = EndpointName("unknown")
    models.register(endpoint, version("a"), [], {}, "seatrial:/versions/a")
    with pytest.raises(NotFound):
        models.mark(endpoint, champion=version("c").id, challenger=None)


def test_an_endpoint_without_versions_is_not_found(models: ModelRegistry):
    with pytest.raises(NotFound):
        models.mark(EndpointName("nobody"), champion=version("a").id, challenger=None)


def test_mlflow_shows_metrics_commit_licence_and_links(mlflow_url: str):
    entry = MlflowModels(mlflow_url).register(
        CHAT, version("a"), [report(version("a"))], {"submission": "http://x/sub-1"}, "seatrial:/versions/a"
    )
    found = httpx.get(f"{mlflow_url}/api/2.0/mlflow/model-versions/get", params={"name": CHAT, "version": str(entry.number)}).json()
    tags = {tag["key"]: tag["value"] for tag in found["model_version"]["tags"]}
    assert (tags["seatrial.commit"], tags["seatrial.licence"], tags["seatrial.link.submission"]) == ("c" * 40, "mit", "http://x/sub-1")
    run = httpx.get(f"{mlflow_url}/api/2.0/mlflow/runs/get", params={"run_id": found["model_version"]["run_id"]}).json()["run"]
    assert {metric["key"]: metric["value"] for metric in run["data"]["metrics"]} == {"benchmark/pass at 1": 0.5}


def test_mlflow_takes_every_measurement_that_has_a_name_for_people(mlflow_url: str):
    numbers = dict.fromkeys([*_LABELS, "pass_at_1", "100 % of 3", "a's"], 0.5)
    measured = replace(report(version("b")), numbers=numbers)
    entry = MlflowModels(mlflow_url).register(CHAT, version("b"), [measured], {}, "seatrial:/versions/b")
    run = httpx.get(f"{mlflow_url}/api/2.0/mlflow/runs/get", params={"run_id": run_of(mlflow_url, entry.number)}).json()["run"]
    assert len(run["data"]["metrics"]) == len(numbers)


def run_of(mlflow_url: str, number: int) -> str:
    found = httpx.get(f"{mlflow_url}/api/2.0/mlflow/model-versions/get", params={"name": CHAT, "version": str(number)}).json()
    return str(found["model_version"]["run_id"])


def test_mlflow_shows_a_version_as_a_finished_run_that_took_as_long_as_its_trials(mlflow_url: str):
    slow = replace(report(version("d")), seconds=40.0)
    MlflowModels(mlflow_url).register(EndpointName("timed"), version("d"), [slow], {}, "seatrial:/versions/d")
    info = runs_of(mlflow_url, "timed/models")[0]["info"]
    assert (info["status"], info["start_time"], info["end_time"]) == ("FINISHED", 1_699_999_960_000, 1_700_000_000_000)
    assert info["run_name"] == "org/m -> timed, 2023-11-14 22:12"


def test_no_link_of_mlflow_needs_a_key(mlflow_url: str):
    links = {"Prefect run": "http://prefect/runs/flow-run/1", "submission": "seatrial status sub-1"}
    MlflowModels(mlflow_url).register(EndpointName("linked"), version("a"), [], links, "seatrial:/versions/a")
    found = httpx.get(f"{mlflow_url}/api/2.0/mlflow/model-versions/get", params={"name": "linked", "version": "1"}).json()
    description = found["model_version"]["description"]
    assert "- [Prefect run](http://prefect/runs/flow-run/1)" in description
    assert "- submission: `seatrial status sub-1`" in description


def test_a_folder_is_not_shown_with_its_path_in_run_names(mlflow_url: str):
    folder = replace(version("b"), source="/home/ann/models/steady")
    MlflowModels(mlflow_url).register(EndpointName("folder"), folder, [], {}, "seatrial:/versions/b")
    (run,) = runs_of(mlflow_url, "folder/models")
    assert run["info"]["run_name"].startswith("steady (folder ")


def test_an_experiment_of_an_earlier_release_is_renamed(mlflow_url: str):
    api = f"{mlflow_url}/api/2.0/mlflow/experiments"
    old = httpx.post(f"{api}/create", json={"name": "older"}).json()["experiment_id"]
    MlflowModels(mlflow_url).register(EndpointName("older"), version("a"), [], {}, "seatrial:/versions/a")
    assert httpx.get(f"{api}/get", params={"experiment_id": old}).json()["experiment"]["name"] == "older/models"


def runs_of(mlflow_url: str, experiment: str) -> list[dict[str, Any]]:
    """Return an experiment's runs."""
    api = f"{mlflow_url}/api/2.0/mlflow"
    found = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": experiment}).raise_for_status().json()
    body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
    return list(httpx.post(f"{api}/runs/search", json=body).raise_for_status().json()["runs"])


def test_an_absent_mlflow_is_transient(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(Transient, match="MLflow"):
            MlflowModels(url).register(CHAT, version("a"), [], {}, "seatrial:/versions/a")
