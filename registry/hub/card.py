"""What a model's card states: its licence and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

_MAX_FRONT_MATTER = 65_536
_FENCE = "---"


def front_matter(readme: Path) -> Mapping[str, Any]:
    """Return the YAML between the first two `---` lines of a README.md; empty when there is none or it cannot be read."""
    try:
        with readme.open(encoding="utf-8") as file:
            text = file.read(_MAX_FRONT_MATTER)
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return {}
    lines = text.splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in (ends := [line.strip() for line in lines[1:]]):
        return {}
    try:
        card = yaml.safe_load("\n".join(lines[1 : 1 + ends.index(_FENCE)]))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def licence(card: Mapping[str, Any]) -> str | None:
    """Return the stated licence in lower case. Several are joined by commas, which no policy lists, so that a person looks."""
    stated = _texts(card.get("license"))
    if stated == ("other",):
        stated = _texts(card.get("license_name")) or stated
    return ", ".join(stated).lower() or None


def base_models(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the models that this one says it was made from."""
    return _texts(card.get("base_model"))


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item.strip() for item in values if isinstance(item, str) and item.strip())
