"""The front matter of a model card on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.model_card import MAX_FRONT_MATTER
from core.model_card import front_matter as of_text


def front_matter(readme: Path) -> Mapping[str, Any]:
    """Return what `core.model_card.front_matter` reads of a README.md; empty when it is missing or not UTF-8."""
    try:
        with readme.open(encoding="utf-8") as file:
            return of_text(file.read(MAX_FRONT_MATTER))
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return {}
