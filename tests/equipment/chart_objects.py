"""The chart's objects as the tests read them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

from core.errors import Fault
from infra.kubernetes.render import CHART, EXAMPLE, helm_program, render
from infra.testcluster.build import default_cache

Object = dict[str, Any]

TINY = {
    "images.platform": "r/p@sha256:" + "1" * 64,
    "images.worker": "r/w@sha256:" + "2" * 64,
    "images.engine": "r/e@sha256:" + "3" * 64,
    "weights.url": "s3://bucket/weights",
    "mlflow.artifacts": "s3://bucket/mlflow",
}
VARIANTS = {
    "example": (),
    "secrets": ("weights.secret=s3", "weights.endpoint=http://store:9000", "images.pullSecret=pull"),
    "theirs": ("prefect.url=http://prefect.flows:4200/api", "mlflow.url=http://mlflow.flows:5000", "gateway.spool.ephemeral=true"),
    "jobs": ("worker.mode=kubernetes", "worker.image=r/x@sha256:" + "4" * 64),
}
"""Settings of the installations that the chart is tested for, by name."""


def need_helm() -> None:
    """Skip, loudly, where there is no helm."""
    try:
        helm_program()
    except Fault as error:
        pytest.skip(f"NOT CHECKED: {error}")


def kubectl_program() -> str:
    """Return a kubectl: the PATH's, else the one that infra/testcluster built. Skips, loudly, where there is none."""
    built = default_cache() / "kubectl"
    found = shutil.which("kubectl") or (str(built) if built.exists() else None)
    if found is None:
        pytest.skip("NOT CHECKED: there is no kubectl; install it, or let `python -m infra.testcluster build` make it")
    return found


def objects(*settings: str, values: tuple[Path, ...] = (EXAMPLE,), namespace: str = "seatrial", release: str = "seatrial") -> list[Object]:
    """Render and parse."""
    need_helm()
    return [document for document in yaml.safe_load_all(_text(settings, values, namespace, release)) if document]


def notes(folder: Path, *settings: str) -> str:
    """Return what `helm install` tells at its end; helm renders that for a cluster only, so a copy of the chart has it as an object."""
    need_helm()
    chart = shutil.copytree(CHART, folder / "chart")
    text = (chart / "templates/NOTES.txt").read_text(encoding="utf-8")
    (chart / "templates/_notes.tpl").write_text('{{ define "notes" }}' + text + "{{ end }}", encoding="utf-8")
    (chart / "templates/notes.yaml").write_text('kind: Notes\ntext: {{ include "notes" . | quote }}\n', encoding="utf-8")
    found = yaml.safe_load_all(render((EXAMPLE,), settings=settings, chart=chart))
    return next(str(document["text"]) for document in found if document and document["kind"] == "Notes")


@cache
def _text(settings: tuple[str, ...], values: tuple[Path, ...], namespace: str, release: str) -> str:
    return render(values, namespace=namespace, release=release, settings=settings)


def tiny(**more: str) -> list[str]:
    """Return the smallest settings that render, and more."""
    return [f"{name}={value}" for name, value in {**TINY, **more}.items()]


def of_kind(found: list[Object], kind: str) -> list[Object]:
    """Choose by kind."""
    return [document for document in found if document["kind"] == kind]


def pods(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield (kind/name, pod spec) of whatever makes pods."""
    for document in found:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Pod":
            yield name, document["spec"]
        elif "template" in document.get("spec", {}):
            yield name, document["spec"]["template"]["spec"]


def containers(found: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Yield (name, pod, container), init containers too."""
    for name, pod in pods(found):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield f"{name}/{container['name']}", pod, container
