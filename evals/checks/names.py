"""Which files of a repository are model: the allow-list that screening chooses by and the examination holds the folder to."""

from __future__ import annotations

import re

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
README = "README.md"
ADAPTER = "adapter_config.json"

_NAMES = {
    CONFIG,
    "generation_config.json",
    "hf_quant_config.json",
    "quant_config.json",
    "quantize_config.json",
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    INDEX,
    TEMPLATE,
    TEMPLATE_JSON,
    README,
}
_LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)([-_.][\w-]{1,40})?(\.(txt|md))?", re.IGNORECASE)
_SAFETENSORS = re.compile(r"[A-Za-z0-9][\w.-]{0,200}\.safetensors")
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
