"""What a model's card (README.md) states: its licence and the models that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

MAX_FRONT_MATTER = 65_536
"""Characters of a card that are read."""
_FENCE = "---"
_BROKEN = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The errors that PyYAML raises for invalid YAML, or for a value that does not have the type of its tag (`!!int ""`)."""


def front_matter(card: str) -> Mapping[str, Any]:
    """Return the YAML between the first two `---` lines; empty when there is none or it cannot be read.

    A byte-order mark, which some editors put before the first line, is not part of the card.
    """
    lines = card[:MAX_FRONT_MATTER].removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in (ends := [line.strip() for line in lines[1:]]):
        return {}
    try:
        document = yaml.load("\n".join(lines[1 : 1 + ends.index(_FENCE)]), _WithoutAliases)  # noqa: S506 - a SafeLoader
    except _BROKEN:
        return {}
    return document if isinstance(document, dict) else {}


class _WithoutAliases(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """A SafeLoader that refuses aliases: a card needs none, and merged ones grow exponentially with their depth."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """See the base class."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted in a model card")
        return super().compose_node(parent, index)


def licence(card: Mapping[str, Any]) -> str | None:
    """Return the stated licence in lower case. Several are joined by commas, which no policy lists, so that a person looks."""
    stated = _texts(card.get("license"))
    if stated == ("other",):
        stated = _texts(card.get("license_name")) or stated
    return ", ".join(stated).lower() or None


def base_models(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the models that this one states that it was made from."""
    return _texts(card.get("base_model"))


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item.strip() for item in values if isinstance(item, str) and item.strip())
