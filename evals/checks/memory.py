"""What an engine needs for a model, and whether weights and the KV cache of a conversation fit into its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.engine_memory import cache_for, plan_memory
from core.reasons import Reason
from core.versions import EngineNeeds, Finding
from evals.checks.architecture import architecture, latent_attention
from evals.checks.model_files import ModelFiles
from evals.checks.report import NotCheckable, fail

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_OF_TENSORS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LARGEST = 10**15
"""Larger numbers of config.json count as this one."""
_LARGEST_FACTOR = 10**6
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_OWN_LENGTH = "model_max_length"
"""Takes precedence where config.json has it (Cohere). The tokenizer's value of this name is often a placeholder and is not read."""
_UNKNOWN_LENGTH = 2048
"""What vLLM assumes where config.json states no length."""
_ALREADY_SCALED = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default", "mrope"})
"""Kinds of RoPE scaling whose factor the stated length contains, or that have none."""
_RECURRENT = ("mamba_d_state", "ssm_state_size", "state_size", "mamba_d_ssm", "linear_num_key_heads", "conv_L_cache")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


def fits_engine(files: ModelFiles) -> Iterator[Finding]:
    """Hold weights plus the KV cache of one conversation of ordinary length against the policy's engine memory."""
    needs = engine_needs(files)
    plan = plan_memory(needs, files.policy)
    if not plan.fits:
        length = min(needs.max_model_len, files.policy.max_model_len or needs.max_model_len, files.policy.conversation_tokens)
        cache = cache_for(length, needs.kv_bytes_per_token)
        yield fail(
            Reason.TOO_LARGE_FOR_ENGINE,
            f"{files.model}: {needs.weights_bytes} bytes of weights and {cache} of KV cache for {length} tokens "
            f"are {needs.weights_bytes + cache}, above an engine's {files.policy.engine_memory_bytes}",
            "Submit a smaller or quantised model, or ask an operator to raise SEATRIAL_MODELS_ENGINE_MEMORY_BYTES",
        )


def engine_needs(files: ModelFiles) -> EngineNeeds:
    """Return what an engine needs to serve this model. Raises NotCheckable when its files do not say."""
    name = architecture(files)
    if not files.shards or any(shard.header is None for shard in files.shards):
        raise NotCheckable
    weights = sum(shard.header.data_bytes for shard in files.shards if shard.header)
    config, dtype = files.text_config, _dtype(files)
    return EngineNeeds(
        name,
        dtype,
        weights,
        own_context(config),
        _number(config, *_HEADS),
        kv_bytes_per_token=kv_bytes_per_token(config, dtype),
        recurrent=any(_number(config, name) for name in _RECURRENT),
        quantized=any(files.config.get(name) for name in ("quantization_config", "compression_config")),
    )


def own_context(config: Mapping[str, Any]) -> int:
    """Return the longest context that a model states, in tokens, as vLLM derives it (`_get_and_verify_max_len`).

    The smallest of the stated lengths, times the factor of a RoPE scaling that the length does not contain yet; for LongRoPE the length
    before scaling. A sliding window bounds the layers' memory and not the context.
    """
    stated = [length for length in (_number(config, name) for name in _LENGTHS) if length]
    length = _number(config, _OWN_LENGTH) or min(stated, default=_UNKNOWN_LENGTH)
    ropes = list(_ropes(config))
    kinds = {_kind(rope) for rope in ropes}
    if "longrope" in kinds or "su" in kinds:
        return _number(config, "original_max_position_embeddings") or length
    if "gemma3" in str(config.get("model_type", "")):
        return length
    factors = [factor for rope in ropes if _kind(rope) not in _ALREADY_SCALED and (factor := _factor(rope))]
    return int(length * (factors[-1] if factors else 1.0))


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Return the bytes that one token takes in the KV cache: 2 x layers x key-value heads x head size x bytes per number.

    Kwon et al., Efficient Memory Management for LLM Serving with PagedAttention (SOSP 2023), section 3: "2 (key and value vectors)
    x 5120 (hidden state size) x 40 (number of layers) x 2 (bytes per FP16)" for OPT-13B; with grouped queries (Ainslie et al., 2023)
    the hidden size becomes key-value heads x head size. An upper bound where layers attend to a window or share their cache; 0 where
    the configuration has no attention heads (state-space models).

    Latent attention (a `kv_lora_rank`), from the source of vLLM 0.32:
    - For the model types of `is_deepseek_mla` (model_arch_config_convertor.py), such as DeepSeek-V2 and V3, each layer keeps one vector of
      kv_lora_rank + qk_rope_head_dim numbers (`MLAAttention.get_kv_cache_spec`), on CPUs too (`CPUMLABackend`).
    - For other types, such as MiniCPM3, vLLM decompresses before it caches: each head keeps a key of qk_nope_head_dim +
      qk_rope_head_dim numbers and a value that is padded to the same length (`MiniCPM3Attention`).
    """
    layers = _number(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = _number(config, *_HEADS)
    latent, rope = _number(config, "kv_lora_rank"), _number(config, "qk_rope_head_dim")
    if latent and str(config.get("model_type")) in latent_attention():
        return layers * (latent + rope) * _BYTES.get(dtype, 2)
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    if not (layers and heads):
        return 0
    if latent and rope:
        return 2 * layers * heads * (_number(config, "qk_nope_head_dim") + rope) * _BYTES.get(dtype, 2)
    kv_heads = _number(config, "num_key_value_heads", "n_head_kv") or heads
    head_size = _number(config, "head_dim") or hidden // heads
    return 2 * layers * kv_heads * head_size * _BYTES.get(dtype, 2)


def engine_dtype(files: ModelFiles) -> str:
    """Return the type of numbers that the engine computes with. Raises NotCheckable where neither configuration nor weights say."""
    if not files.shards or any(shard.header is None for shard in files.shards):
        raise NotCheckable
    return _dtype(files)


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the RoPE settings; newer configurations may have one for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        given = config.get(name)
        if isinstance(given, Mapping):
            nested = [value for value in given.values() if isinstance(value, Mapping)]
            yield from nested or [given]
            return


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _factor(rope: Mapping[str, Any]) -> float:
    factor = rope.get("factor")
    return float(min(factor, _LARGEST_FACTOR)) if isinstance(factor, int | float) and factor >= 1.0 else 0.0


def _dtype(files: ModelFiles) -> str:
    for config in (files.config, files.text_config):
        said = config.get("dtype") or config.get("torch_dtype")
        if isinstance(said, str) and said.removeprefix("torch.") in _BYTES:
            return said.removeprefix("torch.")
    sizes: dict[str, int] = {}
    for shard in files.shards:
        for tensor in shard.header.tensors if shard.header else ():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.end - tensor.begin
    most = max(sizes, key=lambda dtype: sizes[dtype])
    return _OF_TENSORS.get(most, "bfloat16")


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next((min(config[name], _LARGEST) for name in names if type(config.get(name)) is int and config[name] > 0), 0)
