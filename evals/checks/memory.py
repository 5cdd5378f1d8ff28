"""The weights and the KV cache of one longest conversation fit into the engine's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.versions import EngineNeeds, Finding
from evals.checks.architecture import architecture
from evals.checks.evidence import Evidence
from evals.checks.report import NotCheckable, fail

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_OF_TENSORS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx", "model_max_length")
_HEADS = ("num_attention_heads", "n_head", "num_heads")


def fits_engine(evidence: Evidence) -> Iterator[Finding]:
    """Hold weights plus KV cache against the policy's engine memory."""
    needs = engine_needs(evidence)
    cache = kv_bytes_per_token(evidence.text_config, needs.dtype) * needs.max_model_len
    total, allowed = needs.weights_bytes + cache, evidence.policy.engine_memory_bytes
    if total > allowed:
        yield fail(
            "too_large_for_engine",
            f"{evidence.model}: {needs.weights_bytes} bytes of weights and {cache} of KV cache for {needs.max_model_len} tokens "
            f"are {total}, above an engine's {allowed}",
            "submit a smaller or quantised model, or ask an operator to raise SEATRIAL_MODELS_ENGINE_MEMORY_BYTES",
        )


def engine_needs(evidence: Evidence) -> EngineNeeds:
    """Return what an engine needs to serve this model. Raises NotCheckable when its files do not say."""
    name = architecture(evidence)
    if not evidence.shards or any(shard.header is None for shard in evidence.shards):
        raise NotCheckable
    weights = sum(shard.header.data_bytes for shard in evidence.shards if shard.header)
    return EngineNeeds(name, _dtype(evidence), weights, _max_model_len(evidence), _number(evidence.text_config, *_HEADS))


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Return the bytes that one token takes in the KV cache: 2 x layers x key-value heads x head size x bytes per number.

    Kwon et al., Efficient Memory Management for LLM Serving with PagedAttention (SOSP 2023), section 3: "2 (key and value vectors)
    x 5120 (hidden state size) x 40 (number of layers) x 2 (bytes per FP16)" for OPT-13B; with grouped queries (Ainslie et al., 2023)
    the hidden size becomes key-value heads x head size. An upper bound where layers attend to a window or share their cache; 0 where
    the configuration has no attention heads (state-space models).
    """
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _number(config, *_HEADS)
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    if not (layers and heads):
        return 0
    kv_heads = _number(config, "num_key_value_heads") or heads
    head_size = _number(config, "head_dim") or hidden // heads
    return 2 * layers * kv_heads * head_size * _BYTES.get(dtype, 2)


def engine_dtype(evidence: Evidence) -> str:
    """Return the type of numbers that the engine computes with. Raises NotCheckable where neither configuration nor weights say."""
    if not evidence.shards or any(shard.header is None for shard in evidence.shards):
        raise NotCheckable
    return _dtype(evidence)


def _max_model_len(evidence: Evidence) -> int:
    own = _number(evidence.text_config, *_LENGTHS)
    return min(own, evidence.policy.max_model_len) if own else evidence.policy.max_model_len


def _dtype(evidence: Evidence) -> str:
    for config in (evidence.config, evidence.text_config):
        said = config.get("dtype") or config.get("torch_dtype")
        if isinstance(said, str) and said.removeprefix("torch.") in _BYTES:
            return said.removeprefix("torch.")
    sizes: dict[str, int] = {}
    for shard in evidence.shards:
        for tensor in shard.header.tensors if shard.header else ():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.end - tensor.begin
    most = max(sizes, key=lambda dtype: sizes[dtype])
    return _OF_TENSORS.get(most, "bfloat16")


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), 0)
