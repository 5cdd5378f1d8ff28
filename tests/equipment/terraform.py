"""Terraform without a cloud: a copy of infra/terraform, initialised from a folder of providers, run against mocks."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.settings import base_environ

SOURCE = Path(__file__).resolve().parents[2] / "infra/terraform"
_PLUGINS = (Path("/opt/tf-plugins"), Path.home() / ".terraform.d/plugins")
_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Terraform:
    """A folder that is initialised."""

    folder: Path
    program: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in base_environ().items() if name != "TF_CLI_CONFIG_FILE"}  # it may name a file that is not
        return subprocess.run(
            [self.program, *arguments], cwd=self.folder, env=environ, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )


def terraform_here(folder: Path) -> Terraform:
    """Copy and initialise; skip, loudly, where terraform or the provider cannot be had."""
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("NOT CHECKED: there is no terraform")
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns(".terraform*"), dirs_exist_ok=True)
    here = Terraform(folder, program)
    plugins = next((place for place in _PLUGINS if place.is_dir()), None)
    done = here.run("init", "-backend=false", "-input=false", *([f"-plugin-dir={plugins}"] if plugins else []))
    if done.returncode != 0:
        pytest.skip(f"NOT CHECKED: the aws provider cannot be had: {done.stderr.strip()[-300:]}")
    return here


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the state that a mocked apply ended in."""

    address: str
    type: str
    values: dict[str, Any]


def resources(state: dict[str, Any]) -> Iterator[Resource]:
    """Yield the resources of a state's JSON, those of modules too."""
    yield from _of_module(state["root_module"])


def _of_module(module: dict[str, Any]) -> Iterator[Resource]:
    for entry in module.get("resources", ()):
        yield Resource(entry["address"], entry["type"], entry["values"])
    for child in module.get("child_modules", ()):
        yield from _of_module(child)


def messages(output: str) -> Iterator[dict[str, Any]]:
    """Yield what `terraform test -json` said, line by line."""
    for line in output.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def changed(made: Sequence[Resource], kind: str, path: Sequence[str | int], value: Any) -> list[Resource]:
    """Return a copy in which the first resource of a type has another value at a path of names and positions."""
    copies = deepcopy(list(made))
    place: Any = next(resource for resource in copies if resource.type == kind).values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copies


def without(made: Sequence[Resource], kind: str) -> list[Resource]:
    """Return a copy that lacks the resources of a type."""
    return [resource for resource in made if resource.type != kind]


def with_one_more(made: Sequence[Resource], kind: str, values: dict[str, Any]) -> list[Resource]:
    """Return a copy that has one resource more."""
    return [*made, Resource(f"{kind}.more", kind, values)]
