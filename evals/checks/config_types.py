"""The values of config.json have the types that the engine's transformers demands.

`config_types.json` holds the types, measured from transformers itself; evals/README.md shows how to renew it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.reasons import Reason
from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.reading import shown
from evals.checks.report import fail, not_checked

_SHOWN = 3
_LEAST = {
    **dict.fromkeys(("vocab_size", "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_key_value_heads", "intermediate_size", "max_position_embeddings"), 0),
}
"""The smallest sizes that a language model can have."""
_DTYPES = ("float32", "float", "bfloat16", "float16", "half", "float64", "double", "float8_e4m3fn", "float8_e5m2", "int8", "uint8")
_SPECIAL_FLOATS = ({"__float__": "Infinity"}, {"__float__": "-Infinity"}, {"__float__": "NaN"})
"""How `save_pretrained` of transformers 5 writes numbers that JSON has no notation for."""

_KINDS: tuple[tuple[type, str], ...] = (
    (type(None), "null"),
    (bool, "true or false"),  # before int, of which it is a subclass
    (int, "a whole number"),
    (float, "a decimal number"),
    (str, "a string"),
    (list, "a list"),
)
_LISTS = {
    "null": "a list of nulls",
    "true or false": "a list of booleans",
    "a whole number": "a list of whole numbers",
    "a decimal number": "a list of decimal numbers",
    "a string": "a list of strings",
    "a list": "a list of lists",
    "an object": "a list of objects",
}


def config_types(files: ModelFiles) -> Iterator[Finding]:
    """Hold the values of config.json against the types of the model type's configuration class, which refuses any other."""
    name = files.config.get("model_type")
    types = _types().get(name) if isinstance(name, str) else None
    if types is None:
        yield not_checked("config_types", "the types of this model type's configuration are not known to this check")
        return
    for what in list(_faults(files.config, types))[:_SHOWN]:
        yield fail(Reason.BAD_CONFIG, f"{files.model}: {what}", "Save the configuration again (save_pretrained writes it) and submit again")


def _faults(config: Mapping[str, Any], types: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(config.keys() & types.keys()):
        value, kinds = config[key], types[key].split(" | ")
        if not _is_accepted(value, kinds):
            yield f"{key} in config.json must be {_either(kinds)}, got {_shown(value)}"
        elif key in _LEAST and type(value) is int and value < _LEAST[key]:
            yield f"{key} in config.json must be at least {_LEAST[key]}, got {value}"
    if not isinstance(config.get("rope_scaling"), dict | None) and "rope_parameters" in types:  # its name in older configurations
        yield f"rope_scaling in config.json must be null or an object, got {_shown(config['rope_scaling'])}"
    for key in ("dtype", "torch_dtype"):
        if not isinstance(config.get(key), dict | None) and config[key] not in _DTYPES:
            yield f"{key} in config.json must be one of {', '.join(_DTYPES)}, got {_shown(config[key])}"


def _either(kinds: list[str]) -> str:
    *first, last = kinds
    return f"{', '.join(first)} or {last}" if first else last


def _is_accepted(value: Any, kinds: list[str]) -> bool:
    """Whether a field of these kinds accepts a value; of a list each item, and an empty one where the field takes any list."""
    if not isinstance(value, list):
        return _kind(value) in kinds
    lists = [kind for kind in kinds if kind.startswith("a list")]
    return bool(lists) and ("a list" in lists or all(_LISTS[_kind(item)] in lists for item in value))


def _kind(value: Any) -> str:
    if value in _SPECIAL_FLOATS:
        return "a decimal number"
    return next((kind for of, kind in _KINDS if isinstance(value, of)), "an object")


def _shown(value: Any) -> str:
    text = shown(value)
    return f"the whole number {text}" if type(value) is int else text


@cache
def _types() -> Mapping[str, Mapping[str, str]]:
    """Return the accepted kinds of value by model type and key, alternatives separated by ` | `."""
    document = json.loads(Path(__file__).with_name("config_types.json").read_text(encoding="utf-8"))
    return {name: {key: kinds for kinds, keys in groups.items() for key in keys} for name, groups in document.items()}
