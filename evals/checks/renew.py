"""Print tokenizer_classes.json: `python -m evals.checks.renew`, run by the interpreter of the engine's environment."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_WITHOUT_DEFAULTS = {"TokenizersBackend", "MistralCommonBackend"}


def document() -> dict[str, Any]:
    """Return the default special tokens of each class, the class of each model type, and the types whose class overrides the files'."""
    from transformers.models.auto import tokenization_auto as auto  # type: ignore[import-not-found] # noqa: PLC0415 - the engine's

    classes: dict[str, dict[str, str]] = {}
    types: dict[str, str] = {}
    for model_type, registered in auto.TOKENIZER_MAPPING_NAMES.items():
        name = (registered or "").removesuffix("Fast")
        found = auto.tokenizer_class_from_name(name) if name else None
        if found is None:
            continue
        types[model_type] = name
        if name not in _WITHOUT_DEFAULTS:
            given = inspect.signature(found.__init__).parameters
            classes[name] = {key: given[key].default for key in _NAMED if key in given and isinstance(given[key].default, str)}
    return {"classes": classes, "model_types": types, "overrides": sorted(auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS)}


def _rows(section: dict[str, Any]) -> str:
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(section.items())) + "\n }"


if __name__ == "__main__":
    made = document()
    sections = [f' "{key}": {_rows(made[key])}' for key in ("classes", "model_types")]
    sys.stdout.write("{\n" + ",\n".join([*sections, f' "overrides": {json.dumps(made["overrides"])}']) + "\n}\n")
