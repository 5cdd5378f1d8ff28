"""Which files of a repository are model: the allow-list that screening chooses by and the examination holds the folder to."""

from __future__ import annotations

import re

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
GENERATION_CONFIG = "generation_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
SENTENCEPIECE = "tokenizer.model"
QUANTIZATION = "hf_quant_config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
README = "README.md"
ADAPTER = "adapter_config.json"

_NAMES = {
    CONFIG,
    GENERATION_CONFIG,
    QUANTIZATION,
    "quant_config.json",
    "quantize_config.json",
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    ADDED_TOKENS,
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    SENTENCEPIECE,
    "spiece.model",
    INDEX,
    TEMPLATE,
    TEMPLATE_JSON,
    README,
}
_LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)([-_.][\w-]{1,40})?(\.(txt|md))?", re.IGNORECASE)
_SAFETENSORS = re.compile(r"[A-Za-z0-9][\w.-]{0,200}\.safetensors")
_ANY_SAFETENSORS = re.compile(r"[^/]*safetensors[^/]*", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_PICKLE = re.compile(r".*\.(bin|pt|pth|pkl|pickle|ckpt|msgpack|h5)", re.IGNORECASE)


def is_weights(path: str) -> bool:
    """Whether this is a safetensors file at the top of the repository."""
    return _SAFETENSORS.fullmatch(path) is not None


def is_wanted(path: str) -> bool:
    """Whether this file may be part of a model version. Folders never are: they hold copies for other frameworks."""
    return path in _NAMES or is_weights(path) or is_text(path)


def is_text(path: str) -> bool:
    """Whether this is a licence or a notice."""
    return _LICENCE.fullmatch(path) is not None


def is_pickle(path: str) -> bool:
    """Whether these are weights in a format that can hold code."""
    return _PICKLE.fullmatch(path) is not None


def misnamed_weights(path: str) -> bool:
    """Whether a file at the top is named like weights but not by an accepted name: `model (1).safetensors`, `x.safetensors.incomplete`."""
    return _ANY_SAFETENSORS.fullmatch(path) is not None and not is_weights(path) and not path.endswith(".json")


def shard_number(path: str) -> tuple[str, int, int] | None:
    """Return (stem, number, count) of `model-00001-of-00003.safetensors`; None for other names."""
    found = _SHARD.fullmatch(path)
    return (found["stem"], int(found["number"]), int(found["count"])) if found else None
