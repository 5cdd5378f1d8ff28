"""The values of config.json have the types that the engine's transformers demands.

`config_types.json` holds the types, measured from transformers itself; evals/README.md shows how to renew it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.reading import shown
from evals.checks.report import fail, not_checked

_SHOWN = 3
_SIZES = frozenset({"vocab_size", "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "n_layers", "num_layers"})
"""Sizes without which there is no language model."""

_KINDS: tuple[tuple[type, str], ...] = (
    (type(None), "null"),
    (bool, "true or false"),  # before int, of which it is a subclass
    (int, "a whole number"),
    (float, "a decimal number"),
    (str, "a string"),
    (list, "a list"),
)


def config_types(files: ModelFiles) -> Iterator[Finding]:
    """Hold the values of config.json against the types of the model type's configuration class, which refuses any other."""
    name = files.config.get("model_type")
    types = _types().get(name) if isinstance(name, str) else None
    if types is None:
        yield not_checked("config_types", "the types of this model type's configuration are not known to this check")
        return
    for what in list(_faults(files.config, types))[:_SHOWN]:
        yield fail("bad_config", f"{files.model}: {what}", "Save the configuration again (save_pretrained writes it) and submit again")


def _faults(config: Mapping[str, Any], types: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(config.keys() & types.keys()):
        value, kinds = config[key], types[key].split(" | ")
        if _kind(value) not in kinds:
            yield f"{key} in config.json must be {_either(kinds)}, got {_shown(value)}"
        elif key in _SIZES and type(value) is int and value < 1:
            yield f"{key} in config.json must be at least 1, got {value}"


def _either(kinds: list[str]) -> str:
    *first, last = kinds
    return f"{', '.join(first)} or {last}" if first else last


def _kind(value: Any) -> str:
    return next((kind for of, kind in _KINDS if isinstance(value, of)), "an object")


def _shown(value: Any) -> str:
    text = shown(value)
    return f"the whole number {text}" if type(value) is int else text


@cache
def _types() -> Mapping[str, Mapping[str, str]]:
    """Return the accepted kinds of value by model type and key, alternatives separated by ` | `."""
    document = json.loads(Path(__file__).with_name("config_types.json").read_text(encoding="utf-8"))
    return {name: {key: kinds for kinds, keys in groups.items() for key in keys} for name, groups in document.items()}
