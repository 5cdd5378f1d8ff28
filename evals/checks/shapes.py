"""The tensors have the shapes that config.json states, for the families whose layout is known here; others are left to the engine.

Only keys that config.json states are used: what it leaves out is a default of the family, and no ground for a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.reasons import Reason
from core.versions import Finding
from evals.checks.architecture import architecture
from evals.checks.model_files import ModelFiles
from evals.checks.quantization import is_quantized
from evals.checks.report import counted, fail, not_checked

_HEAD_DIM_DIVIDES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM", "GraniteForCausalLM", "Olmo2ForCausalLM"}
)
"""Families in which a head has hidden_size / num_attention_heads numbers unless head_dim is stated."""
_FAMILIES = _HEAD_DIM_DIVIDES | {"Qwen3ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "SmolLM3ForCausalLM"}
"""Families of one kind of layer, with Llama's names of tensors."""
_LAYER = re.compile(r"model\.layers\.(0|[1-9]\d{0,5})\.(.+)")
_HINT = "Save the configuration that the weights were trained with (save_pretrained writes both) and submit again"
_SHOWN = 3
_LARGEST = 10**15
"""Larger numbers of config.json count as this one: what is computed of them stays short enough to be shown."""


@dataclass(frozen=True, slots=True)
class _Size:
    """An expected size and the key (or keys) of config.json that give it."""

    value: int
    key: str


def shapes_match_config(files: ModelFiles) -> Iterator[Finding]:
    """Hold the layers and the shapes against config.json."""
    config, tensors = files.text_config, files.tensors
    family = architecture(files)
    skipped = "quantized weights" if is_quantized(files) else "" if family in _FAMILIES else family
    if not any(_LAYER.fullmatch(name) for name in tensors):
        skipped = skipped or "names of tensors that are not those of the family"
    if skipped:
        yield not_checked("shapes_match_config", f"the layout of {skipped} is not known to this check")
        return
    problems = [*_heads(config, family), *_layers(config, tensors), *_head(config, tensors), *_shapes(config, tensors, family)]
    for what in problems[:_SHOWN]:
        yield fail(Reason.SHAPE_MISMATCH, f"{files.model}: {what}", _HINT)


def _heads(config: Mapping[str, Any], family: str) -> Iterator[str]:
    heads, kv_heads = _number(config, "num_attention_heads"), _number(config, "num_key_value_heads")
    if heads and kv_heads and heads % kv_heads:
        yield f"num_attention_heads ({heads}) in config.json must be a multiple of num_key_value_heads ({kv_heads})"
    hidden = _number(config, "hidden_size")
    if family in _HEAD_DIM_DIVIDES and hidden and heads and hidden % heads and not _number(config, "head_dim"):
        yield f"hidden_size ({hidden}) in config.json must be a multiple of num_attention_heads ({heads}) where head_dim is not stated"


def _layers(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield layers that are too many or too few, and tensors that one layer lacks and others have."""
    layers: dict[int, set[str]] = {}
    for name in tensors:
        found = _LAYER.fullmatch(name)
        if found:
            layers.setdefault(int(found[1]), set()).add(found[2])
    stated = _number(config, "num_hidden_layers")
    if stated:
        missing = stated - len(layers.keys() & set(range(min(stated, max(layers) + 1))))
        extra = sorted(number for number in layers if number >= stated)
        if missing > 0:
            first = next(number for number in range(stated) if number not in layers)
            yield f"num_hidden_layers in config.json is {stated}, but the weights lack {missing} of them, first model.layers.{first}"
        if extra:
            yield f"num_hidden_layers in config.json is {stated}, but the weights have {len(extra)} more, first model.layers.{extra[0]}"
    everywhere = {part for parts in layers.values() for part in parts if not part.endswith("rotary_emb.inv_freq")}
    lacking = sorted((number, part) for number, parts in layers.items() for part in everywhere - parts)
    if lacking:
        number, part = lacking[0]
        yield f"the weights lack {counted(len(lacking), 'tensor')} that other layers have, first model.layers.{number}.{part[:80]}"


def _head(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    if config.get("tie_word_embeddings") is False and "lm_head.weight" not in tensors and "model.embed_tokens.weight" in tensors:
        yield "tie_word_embeddings in config.json is false, but lm_head.weight is missing from the weights"
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        if name not in tensors:
            yield f"the tensor {name} is missing from the weights"


def _shapes(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], family: str) -> Iterator[str]:
    expected = _expected(config, family)
    for name in sorted(tensors):
        found = _LAYER.fullmatch(name)
        sizes = expected.get(found[2] if found else name)
        if sizes is None:
            continue
        shape = tensors[name]
        wrong = [size for got, size in zip(shape, sizes, strict=False) if size is not None and got != size.value]
        if wrong or len(shape) != len(sizes):
            keys = " and ".join(dict.fromkeys(size.key for size in wrong or sizes if size is not None))
            should = ", ".join("any" if size is None else str(size.value) for size in sizes)
            yield f"the tensor {name[:80]} has shape {list(shape)}, expected [{should}] from {keys} in config.json"


def _expected(config: Mapping[str, Any], family: str) -> dict[str, tuple[_Size | None, ...]]:
    """Return the expected shape by the name of a tensor (within a layer: what follows its number); None for a size that is not stated."""
    hidden, inner = _size(config, "hidden_size"), _size(config, "intermediate_size")
    vocabulary = _size(config, "vocab_size")
    queries, values = _heads_size(config, family, "num_attention_heads"), _heads_size(config, family, "num_key_value_heads")
    fused = _Size(queries.value + 2 * values.value, f"{queries.key} and {values.key}") if queries and values else None
    double = _Size(2 * inner.value, f"2 x {inner.key}") if inner else None
    shapes: dict[str, tuple[_Size | None, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (values, hidden),
        "self_attn.v_proj.weight": (values, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.bias": (values,),
        "self_attn.v_proj.bias": (values,),
        "self_attn.qkv_proj.weight": (fused, hidden),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "mlp.gate_up_proj.weight": (double, hidden),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    return {name: sizes for name, sizes in shapes.items() if any(size is not None for size in sizes)}


def _heads_size(config: Mapping[str, Any], family: str, key: str) -> _Size | None:
    heads, head_dim = _number(config, key), _number(config, "head_dim")
    if heads and head_dim:
        return _Size(heads * head_dim, f"{key} = {heads} x head_dim = {head_dim}")
    hidden, all_heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    if heads and hidden and all_heads and family in _HEAD_DIM_DIVIDES:
        return _Size(heads * (hidden // all_heads), f"{key} = {heads} x hidden_size = {hidden} / num_attention_heads = {all_heads}")
    return None


def _size(config: Mapping[str, Any], key: str) -> _Size | None:
    value = _number(config, key)
    return _Size(value, f"{key} = {value}") if value else None


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return min(value, _LARGEST) if type(value) is int and value > 0 else 0
