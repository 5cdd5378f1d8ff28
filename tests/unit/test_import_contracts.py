"""The import contracts of pyproject.toml cover every package: a new one without a layer is found."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINTER: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
CONTRACTS: dict[str, dict[str, Any]] = {contract["name"]: contract for contract in LINTER["contracts"]}
OUTSIDE = {"tests"}


def packages(root: Path) -> set[str]:
    """Return the packages of the platform and of the client."""
    found = {path.parent.name for folder in (root, root / "client/src") for path in folder.glob("*/__init__.py")}
    return found - OUTSIDE


LISTS: dict[str, list[str]] = {
    "root packages": LINTER["root_packages"],
    "layers": [name for layer in CONTRACTS["Layers: who may import whom"]["layers"] for name in re.split(r"\s*[|:]\s*", layer)],
    "no cycles": CONTRACTS["No import cycles between the modules of a package"]["ancestors"],
    "the client's contract": ["seatrial", *CONTRACTS["The client imports nothing of the platform"]["forbidden_modules"]],
}


@pytest.mark.parametrize("listed", LISTS.values(), ids=LISTS)
def test_every_package_is_in_the_contract(listed: list[str]) -> None:
    assert sorted(listed) == sorted(packages(ROOT))


def test_a_package_without_a_layer_is_found(tmp_path: Path) -> None:
    for name in (*packages(ROOT), "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert packages(tmp_path) - set(LISTS["layers"]) == {"another"}
