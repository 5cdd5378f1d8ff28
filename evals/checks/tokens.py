"""The special and added tokens of a model, by the rules of transformers 5 (`PreTrainedTokenizerBase._from_pretrained`).

They decide what a chat template may name (`{{ bos_token }}`), and which token ids the tokenizer can produce.
`tokenizer_classes.json` holds what transformers' own tokenizer classes add; evals/README.md shows how to renew it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evals.checks.model_files import ModelFiles
from evals.checks.names import ADDED_TOKENS, CONFIG, SPECIAL_TOKENS, TOKENIZER_CONFIG
from evals.checks.reading import shown

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_MAX_ADDED = 100_000
"""Most tokens that the files may add to tokenizer.json. Adding them takes the tokenizer's library seconds for each 100,000."""
_GENERIC = {"TokenizersBackend", "PythonBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """`named` is what a template sees, `added` what the files add to tokenizer.json, `faults` what keeps transformers from loading it."""

    named: Mapping[str, str]
    added: tuple[str, ...]
    faults: tuple[str, ...]


def tokens(files: ModelFiles) -> Tokens:
    """Read the tokens of tokenizer_config.json, special_tokens_map.json and added_tokens.json. Raises NotCheckable for a broken file.

    As transformers: with `added_tokens_decoder` in tokenizer_config.json the other two files are not read.
    """
    return read_tokens(files.json)


def read_tokens(load: Callable[[str], Mapping[str, Any] | None]) -> Tokens:
    """Return the tokens of files that `load` gives by name, None for a missing one."""
    config = load(TOKENIZER_CONFIG) or {}
    decoder = config.get("added_tokens_decoder")
    legacy = {} if "added_tokens_decoder" in config else dict(load(SPECIAL_TOKENS) or {})
    stated = dict(_named_in(config))
    stated |= {name: value for name, value in _named_in(legacy, plain_objects=True).items() if name in legacy}
    named = {name: text for name, value in stated.items() if (text := _text(value)) is not None}
    extra = [value for source in (config, legacy) for key in _EXTRA for value in _items(source.get(key))]
    added = [text for value in (*named.values(), *extra) if (text := _text(value)) is not None]
    if isinstance(decoder, dict):
        added += [text for value in decoder.values() if (text := _text(value)) is not None]
    elif decoder is None:
        added += list(load(ADDED_TOKENS) or {})
    faults = (
        *_faults(config),
        *_decoder_faults(decoder, given="added_tokens_decoder" in config),
        *_not_text(added),
        *_too_many(added),
    )
    chosen = _class(load(CONFIG) or {}, config)
    defaults = {name: text for name, text in _classes()["classes"].get(chosen, {}).items() if name not in stated}
    counted = defaults if chosen == _stated_class(config) else {}  # not the defaults of an unstated class: see docs/decisions
    return Tokens({**defaults, **named}, tuple(dict.fromkeys([*added, *counted.values()]))[:_MAX_ADDED], tuple(faults))


def _named_in(source: Mapping[str, Any], *, plain_objects: bool = False) -> dict[str, Any]:
    """Return the tokens that get a name of their own: the seven standard ones, any other `*_token`, and an object of extra tokens."""
    found = {key: value for key, value in source.items() if key in NAMED}
    found |= {
        key: value
        for key, value in source.items()
        if key.endswith("_token") and (isinstance(value, str) or _is_added_token(value, plain_objects=plain_objects))
    }
    for key in _EXTRA:
        nested = source.get(key)
        if isinstance(nested, dict) and not _is_added_token(nested, plain_objects=False):
            found |= {str(name): value for name, value in nested.items()}
    return found


def _is_added_token(value: Any, *, plain_objects: bool) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str) and (plain_objects or value.get("__type") == "AddedToken")


def _text(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    for name in NAMED:
        value = config.get(name)
        if value is not None and not isinstance(value, str) and not _is_added_token(value, plain_objects=False):
            yield f"{name} in {TOKENIZER_CONFIG} must be a string or an AddedToken object (with `__type`), got {shown(value)}"


def _not_text(added: list[str]) -> Iterator[str]:
    broken = next((text for text in added if any("\ud800" <= character <= "\udfff" for character in text)), None)
    if broken is not None:
        yield f"the added token {broken[:40]!r} has a lone surrogate, which no text can contain"


def _too_many(added: list[str]) -> Iterator[str]:
    if len(added) > _MAX_ADDED:
        yield f"{TOKENIZER_CONFIG}, {SPECIAL_TOKENS} and {ADDED_TOKENS} may add at most {_MAX_ADDED} tokens, they add {len(added)}"


def _decoder_faults(decoder: Any, *, given: bool) -> Iterator[str]:
    if not given:
        return
    if not isinstance(decoder, dict):
        yield f"added_tokens_decoder in {TOKENIZER_CONFIG} must be an object, got {shown(decoder)}"
        return
    for number, value in decoder.items():
        if not number.isdecimal() or _text(value) is None or not isinstance(value, dict):
            yield f"added_tokens_decoder in {TOKENIZER_CONFIG} must map ids to objects with `content`, got {shown(number)}: {shown(value)}"
            return


@cache
def _classes() -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(Path(__file__).with_name("tokenizer_classes.json").read_text(encoding="utf-8"))
    return document


def _stated_class(config: Mapping[str, Any]) -> str | None:
    stated = config.get("tokenizer_class")
    return stated.removesuffix("Fast") if isinstance(stated, str) and stated else None


def _class(model: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return the tokenizer's class by AutoTokenizer's choice between the files' and the one registered for the model type.

    None for the generic class, which has no special tokens of its own.
    """
    classes = _classes()
    stated, model_type = _stated_class(config) or _stated_class(model), model.get("model_type")
    registered = classes["model_types"].get(model_type) if isinstance(model_type, str) else None
    if stated is None or registered in {None, stated}:
        return stated or registered
    if registered in {*_GENERIC, "MistralCommonBackend"}:
        return None
    return registered if model_type in classes["overrides"] else stated
