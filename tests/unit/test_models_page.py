"""docs/models.md states what the tests of architectures run, and nothing else."""

from __future__ import annotations

import json
from collections import Counter

from evals.checks.architecture import known_architectures
from tests.equipment.architectures import CELLS, VLLM_JSON
from tests.equipment.models_page import PAGE, page_with_tables


def test_the_tables_of_the_page_are_those_of_the_cells() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_tables(page), "run python -m tests.equipment.models_page"


def test_cells_have_names_of_their_own() -> None:
    assert [name for name, times in Counter(cell.name for cell in CELLS).items() if times > 1] == []


def test_every_served_cell_is_of_an_architecture_that_the_checks_know() -> None:
    assert {cell.architecture for cell in CELLS if not cell.refused} <= known_architectures()


def test_at_least_thirty_architectures_are_tried() -> None:
    assert len({cell.architecture for cell in CELLS if not cell.refused}) >= 30


def test_no_architecture_is_both_served_and_of_another_kind() -> None:
    known = json.loads(VLLM_JSON.read_text(encoding="utf-8"))
    assert not set(known["served"]) & set(known["other"])
    assert not set(known["served"]) & set(known["removed"])
