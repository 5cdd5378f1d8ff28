"""Print a table of this folder, made from the libraries themselves: `python -m evals.checks.renew tokenizers|configs`.

Run by the interpreter of the engine's environment.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_WITHOUT_DEFAULTS = {"TokenizersBackend", "MistralCommonBackend"}
_KINDS: dict[str, tuple[Any, ...]] = {
    "null": (None,),
    "true or false": (True,),
    "a whole number": (2, 1, 0),
    "a decimal number": (0.5, 1.5),
    "a string": ("x",),
    "an object": ({},),
    "a list of nulls": ([None],),
    "a list of booleans": ([True],),
    "a list of whole numbers": ([2],),
    "a list of decimal numbers": ([0.5],),
    "a list of strings": (["x"],),
    "a list of lists": ([[2]],),
    "a list of objects": ([{}],),
}
_LISTS = frozenset(kind for kind in _KINDS if kind.startswith("a list"))
"""Values of each kind of JSON. A field accepts a kind if it accepts one of them: some fields have bounds as well."""


def tokenizers() -> dict[str, Any]:
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


def configs(model_types: Iterable[str] | None = None) -> dict[str, dict[str, list[str]]]:
    """Return for each model type of a language model which kinds of value its configuration takes: fields by accepted kinds.

    Left out are fields that take every kind, and model types whose configuration vLLM reads with a class of its own.
    """
    from transformers import CONFIG_MAPPING, logging  # type: ignore[import-not-found] # noqa: PLC0415 - the engine's
    from transformers.models.auto.modeling_auto import (  # type: ignore[import-not-found] # noqa: PLC0415
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )
    from vllm.transformers_utils.config import _CONFIG_REGISTRY  # type: ignore[import-not-found] # noqa: PLC0415

    logging.set_verbosity(logging.CRITICAL)
    asked = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) if model_types is None else set(model_types)
    return {
        name: _fields(CONFIG_MAPPING[name])
        for name in sorted(asked - set(_CONFIG_REGISTRY))
        if name in CONFIG_MAPPING and dataclasses.is_dataclass(CONFIG_MAPPING[name])
    }


def _fields(config: Callable[..., Any]) -> dict[str, list[str]]:
    """Return the fields by the kinds that they accept. A field's other names (`attribute_map`) stand beside it."""
    groups: dict[str, list[str]] = {}
    others: dict[str, str] = getattr(config, "attribute_map", {})
    for field in dataclasses.fields(config):  # type: ignore[arg-type] # its class is one
        accepted = [kind for kind, values in _KINDS.items() if any(_accepts(config, field.name, value) for value in values)]
        if len(accepted) == len(_KINDS) or not set(accepted) - {"null"}:  # no sample fits: a list of a certain length, for example
            continue
        if _LISTS.issubset(accepted):
            accepted = [*(kind for kind in accepted if kind not in _LISTS), "a list"]
        names = [field.name, *(name for name, of in others.items() if of == field.name)]
        groups.setdefault(" | ".join(accepted), []).extend(names)
    return {kinds: sorted(names) for kinds, names in sorted(groups.items())}


def _accepts(config: Callable[..., Any], name: str, value: Any) -> bool:
    """Whether the class takes this type of value. What fails later, such as sizes that do not divide, says nothing about its type."""
    from huggingface_hub.errors import (  # noqa: PLC0415
        StrictDataclassClassValidationError,
        StrictDataclassFieldValidationError,
    )

    try:
        config(**{name: value})
    except StrictDataclassFieldValidationError as error:
        return f"'{name}'" not in str(error)
    except (StrictDataclassClassValidationError, ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError):
        return True
    return True


def _rows(section: dict[str, Any]) -> Iterator[str]:
    yield from (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(section.items()))


def _object(section: dict[str, Any]) -> str:
    return "{\n" + ",\n".join(_rows(section)) + "\n }"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tokenizers"]:
            made = tokenizers()
            sections = [f' "{key}": {_object(made[key])}' for key in ("classes", "model_types")]
            sys.stdout.write("{\n" + ",\n".join([*sections, f' "overrides": {json.dumps(made["overrides"])}']) + "\n}\n")
        case ["configs"]:
            sys.stdout.write(_object(configs()).removesuffix(" }") + "}\n")
        case _:
            sys.exit(__doc__)
