"""What is read of a model's card."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.model_card import base_models, licence
from registry.hub.card import front_matter


def card(tmp_path: Path, text: str) -> Path:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return tmp_path / "README.md"


def test_front_matter_is_what_stands_between_the_fences(tmp_path: Path) -> None:
    assert front_matter(card(tmp_path, "---\nlicense: mit\n---\nlicense: gpl\n")) == {"license": "mit"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# no card",
        "---\nlicense: mit\n",
        "---\n: : [\n---\n",
        "---\n- a list\n---\n",
        "---\ndate: 2026-99-99\n---\n",
        "---\n" + "[" * 9000 + "\n---\n",
        "---\nx: 1" + ":0" * 200 + ":0.0\n---\n",
    ],
    ids=["empty", "none", "unclosed", "no YAML", "a list", "no date", "too deep", "too large"],
)
def test_a_card_that_cannot_be_read_states_nothing(tmp_path: Path, text: str) -> None:
    assert front_matter(card(tmp_path, text)) == {}


def test_a_card_cannot_make_objects(tmp_path: Path) -> None:
    assert front_matter(card(tmp_path, "---\nlicense: !!python/object/apply:os.getcwd []\n---\n")) == {}


def test_a_missing_or_binary_card_states_nothing(tmp_path: Path) -> None:
    assert front_matter(tmp_path / "README.md") == {}
    (tmp_path / "README.md").write_bytes(b"\xff\xfe---")
    assert front_matter(tmp_path / "README.md") == {}


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ({}, None),
        ({"license": "MIT"}, "mit"),
        ({"license": ["mit"]}, "mit"),
        ({"license": ["mit", "gpl-3.0"]}, "mit, gpl-3.0"),
        ({"license": "other"}, "other"),
        ({"license": "other", "license_name": "Harbour-1.0"}, "harbour-1.0"),
        ({"license": 7}, None),
        ({"license": "  "}, None),
    ],
)
def test_the_licence_is_the_one_that_is_stated(stated: dict[str, object], read: str | None) -> None:
    assert licence(stated) == read


def test_base_models_are_one_or_several() -> None:
    assert base_models({"base_model": "org/a"}) == ("org/a",)
    assert base_models({"base_model": ["org/a", 7, "org/b"]}) == ("org/a", "org/b")
    assert base_models({}) == ()


def test_a_card_with_aliases_is_not_read_because_merged_ones_grow_exponentially(tmp_path: Path) -> None:
    levels = "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 6)}]}}" for n in range(1, 14))
    card = tmp_path / "README.md"
    card.write_text(f"---\na0: &a0 {{x: 1}}\n{levels}\nlicense: mit\n---\n")
    assert front_matter(card) == {}
