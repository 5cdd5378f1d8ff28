"""Prompts in a real MLflow's prompt registry."""

from __future__ import annotations

import socket

import pytest

from core.errors import Refused, Transient
from evals.suites.suite import CHAT, PromptTemplate
from registry.prompts import MlflowPrompts
from tests.equipment.mlflow_server import at_once


def test_a_text_is_entered_once_however_often_it_is_pinned(mlflow_url: str):
    template = PromptTemplate("once", 1, "{{prompt}}")
    assert MlflowPrompts(mlflow_url).pin(template) == "prompt.once@1"
    again = MlflowPrompts(mlflow_url)
    assert [again.pin(template), again.pin(template)] == ["prompt.once@1", "prompt.once@1"]


def test_many_processes_that_pin_a_text_at_once_name_one_version(mlflow_url: str):
    """The first submissions of a new platform do so."""
    for name in ("rush", "rush-again", "rush-once-more"):
        template = PromptTemplate(name, 1, "{{prompt}}")
        pinned = at_once(8, lambda _number: MlflowPrompts(mlflow_url).pin(template))  # noqa: B023 - called at once
        assert set(pinned) == {f"prompt.{name}@1"}


def test_another_text_is_another_version_and_the_old_one_stays(mlflow_url: str):
    prompts = MlflowPrompts(mlflow_url)
    old, new = PromptTemplate("two", 1, "{{prompt}}"), PromptTemplate("two", 2, "# Python\n{{prompt}}")
    assert [prompts.pin(old), prompts.pin(new), prompts.pin(old)] == ["prompt.two@1", "prompt.two@2", "prompt.two@1"]


def test_what_is_kept_is_the_text_with_its_digest(mlflow_url: str):
    from mlflow import MlflowClient  # noqa: PLC0415

    name, _, version = MlflowPrompts(mlflow_url).pin(CHAT.prompt).partition("@")
    kept = MlflowClient(mlflow_url, registry_uri=mlflow_url).get_prompt_version(name, version)
    assert kept is not None
    assert kept.template == CHAT.prompt.text
    assert kept.tags["seatrial.sha256"] == CHAT.prompt.digest


def test_a_model_of_the_same_name_is_not_in_the_way(mlflow_url: str):
    from mlflow import MlflowClient  # noqa: PLC0415

    MlflowClient(mlflow_url, registry_uri=mlflow_url).create_registered_model("shared-name")
    assert MlflowPrompts(mlflow_url).pin(PromptTemplate("shared-name", 1, "{{prompt}}")) == "prompt.shared-name@1"


def test_a_text_that_was_changed_without_a_new_version_is_refused(mlflow_url: str):
    MlflowPrompts(mlflow_url).pin(PromptTemplate("sly", 1, "{{prompt}}"))
    with pytest.raises(Refused, match="another text at version 1"):
        MlflowPrompts(mlflow_url).pin(PromptTemplate("sly", 1, "Please: {{prompt}}"))


def test_an_mlflow_that_is_away_is_transient(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Transient):
        MlflowPrompts(f"http://127.0.0.1:{port}").pin(PromptTemplate("away", 1, "{{prompt}}"))
