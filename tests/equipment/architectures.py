"""Tiny random-weight models of every architecture that docs/models.md lists, as data; `tests/engine_env/model_builder.py` writes them.

Each `Cell` is one model folder and what must become of it. Add a cell to have another architecture or layout tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from core.hosts import EngineHost, cpu_host

VOCABULARY: Final = 1024
"""That of `models/steady/tokenizer.json`, which every cell uses."""

VLLM_JSON: Final = Path(__file__).parents[2] / "evals" / "checks" / "vllm.json"
FOUR_BITS: Final = {"awq", "gptq", "w4a16"}
_NAMED_OTHERWISE: Final = {"GPT2Config": "GPT2LMHeadModel"}

_SHAPE: Final = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GPT: Final = {
    "vocab_size": VOCABULARY,
    "n_embd": 128,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_HEAD: Final = {"head_dim": 32}
_EXPERTS: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LATENT: Final = {
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_SSM: Final = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2}


@dataclass(frozen=True, slots=True)
class Cell:
    """One model. `config` names the transformers class; `changes` names functions of the builder that then alter the folder."""

    name: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    tied: bool = False
    shards: int = 1
    layout: str = ""
    changes: tuple[str, ...] = ()
    skip: str = ""
    """Part of the names of projections that a quantised layout leaves as they are."""
    tensors_bytes: int = 5_000_000_000
    """Largest tensorizer file."""
    sample: bool = False
    """Whether shuffled weights are served too, which must change the answers."""
    gate: bool = False
    """Whether the ordinary gate runs it; the release tests run every cell."""
    refused: str = ""
    """The reason for which the checks refuse it; real vLLM must fail on it, too."""
    refused_by_engine: str = ""
    """Part of the message with which our loader refuses it."""
    about: str = ""
    """What docs/models.md says of it beside its name."""

    @property
    def refused_here(self) -> str:
        """The reason for which the checks of this machine refuse it: 4-bit weights need a CPU with AVX-512."""
        if not self.refused and self.layout in FOUR_BITS and not host().avx512:
            return "quantization_not_on_cpu"
        return self.refused

    @property
    def architecture(self) -> str:
        """The name in config.json's `architectures`."""
        return _NAMED_OTHERWISE.get(self.config) or self.config.removesuffix("Config").removesuffix("Text") + "ForCausalLM"


_FIELDS: Final = {
    "dtype",
    "tied",
    "shards",
    "layout",
    "changes",
    "skip",
    "tensors_bytes",
    "sample",
    "gate",
    "refused",
    "refused_by_engine",
    "about",
}


def _cell(name: str, config: str, /, *, base: Any = _SHAPE, **fields: Any) -> Cell:
    known = {key: fields.pop(key) for key in _FIELDS if key in fields}
    return Cell(name, config, {**base, **fields}, **known)


CELLS: Final[tuple[Cell, ...]] = (
    _cell("llama", "LlamaConfig", **_HEAD, sample=True),
    _cell("mistral", "MistralConfig", sliding_window=16, **_HEAD),
    _cell("ministral3", "Ministral3Config", **_HEAD),
    _cell("qwen2", "Qwen2Config", tied=True, gate=True),
    _cell("qwen2-moe", "Qwen2MoeConfig", shared_expert_intermediate_size=64, **_EXPERTS),
    _cell("qwen3", "Qwen3Config", **_HEAD, tied=True),
    _cell("qwen3-moe", "Qwen3MoeConfig", **_HEAD, **_EXPERTS, gate=True, sample=True),
    _cell(
        "qwen3-next",
        "Qwen3NextConfig",
        **_HEAD,
        **_EXPERTS,
        shared_expert_intermediate_size=64,
        num_hidden_layers=4,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
    ),
    _cell(
        "qwen3.5",
        "Qwen3_5TextConfig",
        **_HEAD,
        num_hidden_layers=4,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
    ),
    _cell("mixtral", "MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
    _cell("gemma", "GemmaConfig", **_HEAD, tied=True),
    _cell("gemma2", "Gemma2Config", **_HEAD, sliding_window=16, query_pre_attn_scalar=32, tied=True),
    _cell("gemma3", "Gemma3TextConfig", **_HEAD, sliding_window=16, query_pre_attn_scalar=32, tied=True, gate=True),
    _cell(
        "gemma3n",
        "Gemma3nTextConfig",
        **{**_HEAD, "intermediate_size": [256] * 4},
        sliding_window=16,
        tied=True,
        num_hidden_layers=4,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=16,
        num_kv_shared_layers=2,
        laurel_rank=8,
        activation_sparsity_pattern=[0.0] * 4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    _cell(
        "gemma4",
        "Gemma4TextConfig",
        **_HEAD,
        tied=True,
        sliding_window=16,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=16,
        global_head_dim=32,
        layer_types=["sliding_attention", "full_attention"],
    ),
    _cell("vaultgemma", "VaultGemmaConfig", **_HEAD, sliding_window=16, tied=True),
    _cell("phi", "PhiConfig"),
    _cell("phi3", "Phi3Config"),
    _cell("phimoe", "PhimoeConfig", num_local_experts=4, num_experts_per_tok=2, refused="unknown_architecture"),
    _cell("gpt2", "GPT2Config", base=_GPT, tied=True),
    _cell("gptj", "GPTJConfig", base=_GPT, rotary_dim=16),
    _cell("gpt-neox", "GPTNeoXConfig"),
    _cell("gpt-bigcode", "GPTBigCodeConfig", base=_GPT, tied=True),
    _cell("gpt-oss", "GptOssConfig", **_HEAD, num_local_experts=4, num_experts_per_tok=2, sliding_window=16),
    _cell("opt", "OPTConfig", ffn_dim=256, word_embed_proj_dim=128, tied=True),
    _cell("bloom", "BloomConfig", base={**_GPT, "hidden_size": 128}, tied=True),
    _cell("falcon", "FalconConfig", tied=True),
    _cell("falcon-mamba", "FalconMambaConfig", state_size=16, refused="architecture_needs_gpu"),
    _cell(
        "falcon-h1",
        "FalconH1Config",
        **_HEAD,
        mamba_d_ssm=128,
        mamba_n_heads=4,
        mamba_d_head=32,
        mamba_n_groups=1,
        mamba_d_state=16,
        mamba_d_conv=4,
    ),
    _cell("olmo", "OlmoConfig"),
    _cell("olmo2", "Olmo2Config"),
    _cell("olmo3", "Olmo3Config", sliding_window=16),
    _cell("olmoe", "OlmoeConfig", num_experts=4, num_experts_per_tok=2),
    _cell("olmo-hybrid", "OlmoHybridConfig", num_hidden_layers=4, refused="architecture_needs_gpu"),
    _cell("granite", "GraniteConfig", tied=True),
    _cell("granite-moe", "GraniteMoeConfig", num_local_experts=4, num_experts_per_tok=2),
    _cell("granite-moe-shared", "GraniteMoeSharedConfig", num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=64),
    _cell(
        "granite-moe-hybrid",
        "GraniteMoeHybridConfig",
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=64,
        layer_types=["mamba", "attention"],
        mamba_n_heads=8,
        mamba_d_head=32,
        mamba_n_groups=1,
        **_SSM,
    ),
    _cell("smollm3", "SmolLM3Config", tied=True),
    _cell("stablelm", "StableLmConfig"),
    _cell("starcoder2", "Starcoder2Config", tied=True),
    _cell("cohere", "CohereConfig", tied=True),
    _cell("cohere2", "Cohere2Config", tied=True, sliding_window=16),
    _cell("mamba", "MambaConfig", state_size=16, tied=True, refused="architecture_needs_gpu"),
    _cell("mamba2", "Mamba2Config", state_size=16, num_heads=8, head_dim=32, n_groups=1),
    _cell(
        "bamba",
        "BambaConfig",
        attn_layer_indices=[1],
        mamba_n_heads=8,
        mamba_d_head=32,
        mamba_n_groups=1,
        **_SSM,
        refused="architecture_removed",
    ),
    _cell(
        "jamba",
        "JambaConfig",
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
        **_SSM,
        refused="architecture_needs_gpu",
    ),
    _cell("nemotron", "NemotronConfig", **_HEAD),
    _cell(
        "nemotron-h",
        "NemotronHConfig",
        **_HEAD,
        layers_block_type=["mamba", "attention", "mlp"],
        num_hidden_layers=3,
        mamba_num_heads=8,
        mamba_head_dim=32,
        n_groups=1,
        ssm_state_size=16,
        conv_kernel=4,
    ),
    _cell("lfm2-moe", "Lfm2MoeConfig", layer_types=["conv", "full_attention"], num_dense_layers=1, **_EXPERTS),
    _cell("glm", "GlmConfig", **_HEAD),
    _cell("glm4", "Glm4Config", **_HEAD),
    _cell(
        "glm4-moe", "Glm4MoeConfig", **_HEAD, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, first_k_dense_replace=1
    ),
    _cell("glm4-moe-lite", "Glm4MoeLiteConfig", **{**_LATENT, "q_lora_rank": 64}),
    _cell("deepseek-v2", "DeepseekV2Config", **_LATENT),
    _cell(
        "deepseek-v3.2",
        "DeepseekV32Config",
        **{**_LATENT, "q_lora_rank": 64},
        index_n_heads=4,
        index_head_dim=32,
        index_topk=16,
        refused="architecture_needs_gpu",
    ),
    _cell("ernie4.5", "Ernie4_5Config", **_HEAD, tied=True),
    _cell("ernie4.5-moe", "Ernie4_5_MoeConfig", **_HEAD, moe_num_experts=4, moe_k=2, moe_intermediate_size=64, moe_layer_start_index=1),
    _cell("hunyuan", "HunYuanDenseV1Config", **_HEAD),
    _cell("hunyuan-moe", "HunYuanMoEV1Config", **_HEAD, num_experts=4, moe_topk=2),
    _cell("minicpm3", "MiniCPM3Config", **{**_LATENT, "q_lora_rank": 64}),
    _cell("exaone4", "Exaone4Config", **_HEAD, sliding_window=16),
    _cell("seed-oss", "SeedOssConfig", **_HEAD),
    _cell("apertus", "ApertusConfig"),
    # Dtypes, shards, layouts
    _cell("llama-float16", "LlamaConfig", **_HEAD, dtype="float16"),
    _cell("llama-float32", "LlamaConfig", **_HEAD, dtype="float32"),
    _cell("llama-tied", "LlamaConfig", **_HEAD, tied=True),
    _cell("llama-shards", "LlamaConfig", **_HEAD, shards=3, tensors_bytes=100_000),
    _cell("llama-bias", "LlamaConfig", about="biases in attention and MLP", **_HEAD, attention_bias=True, mlp_bias=True),
    _cell("qwen2-untied", "Qwen2Config"),
    _cell("gemma3-float32", "Gemma3TextConfig", **_HEAD, sliding_window=16, query_pre_attn_scalar=32, tied=True, dtype="float32"),
    _cell("gpt2-float32", "GPT2Config", base=_GPT, tied=True, dtype="float32"),
    _cell("gpt2-float16", "GPT2Config", base=_GPT, tied=True, dtype="float16"),
    _cell(
        "qwen3-moe-many",
        "Qwen3MoeConfig",
        about="512 experts, a tensor each: 3,000 tensors, two tensorizer files",
        **_HEAD,
        **{**_EXPERTS, "num_experts": 512, "moe_intermediate_size": 32},
    ),
    _cell("llama-awq", "LlamaConfig", **_HEAD, layout="awq", sample=True),
    _cell("qwen2-awq", "Qwen2Config", layout="awq", dtype="float16", tied=True),
    _cell("llama-awq-partly", "LlamaConfig", **_HEAD, layout="awq", skip="layers.1.mlp"),
    _cell("llama-gptq", "LlamaConfig", **_HEAD, layout="gptq"),
    _cell("qwen2-gptq", "Qwen2Config", layout="gptq", dtype="float16"),
    _cell("llama-gptq-partly", "LlamaConfig", **_HEAD, layout="gptq", skip="layers.1.mlp"),
    _cell("llama-awq-float32", "LlamaConfig", **_HEAD, layout="awq", dtype="float32", refused="unsupported_quantization"),
    _cell("llama-w4a16", "LlamaConfig", **_HEAD, layout="w4a16"),
    _cell("llama-w8a8", "LlamaConfig", **_HEAD, layout="w8a8", gate=True, sample=True),
    _cell("qwen2-w8a8", "Qwen2Config", layout="w8a8", tied=True),
    _cell("llama-fp8", "LlamaConfig", **_HEAD, layout="fp8"),
    _cell("llama-bitsandbytes", "LlamaConfig", **_HEAD, layout="bitsandbytes", refused="unsupported_quantization"),
    _cell("mixtral-awq", "MixtralConfig", num_local_experts=4, num_experts_per_tok=2, layout="awq", refused="quantization_not_on_cpu"),
    _cell("qwen3-moe-gptq", "Qwen3MoeConfig", **_HEAD, **_EXPERTS, layout="gptq", refused="quantization_not_on_cpu"),
    _cell("qwen3-moe-w4a16", "Qwen3MoeConfig", **_HEAD, **_EXPERTS, layout="w4a16", refused="quantization_not_on_cpu"),
    _cell("qwen3-moe-w8a8", "Qwen3MoeConfig", **_HEAD, **_EXPERTS, layout="w8a8", refused="quantization_not_on_cpu"),
    # What uploads look like
    _cell(
        "rope-default",
        "LlamaConfig",
        about="configuration of transformers 4: `rope_theta`, `torch_dtype`",
        **_HEAD,
        changes=("rope-default", "old-dtype-name"),
    ),
    _cell("rope-linear", "LlamaConfig", about="`rope_scaling` of type linear", **_HEAD, changes=("rope-linear",)),
    _cell("rope-dynamic", "LlamaConfig", about="`rope_scaling` of type dynamic", **_HEAD, changes=("rope-dynamic",)),
    _cell("rope-llama3", "LlamaConfig", about="`rope_scaling` of type llama3", **_HEAD, changes=("rope-llama3",)),
    _cell("rope-yarn", "Qwen2Config", about="`rope_scaling` of type yarn", changes=("rope-yarn",)),
    _cell("rope-longrope", "Phi3Config", about="`rope_scaling` of type longrope", changes=("rope-longrope",)),
    _cell(
        "copied-head",
        "Qwen2Config",
        about="`tie_word_embeddings`, and a copy of the embedding as `lm_head`",
        tied=True,
        changes=("copied-head",),
    ),
    _cell(
        "other-head",
        "Qwen2Config",
        about="`tie_word_embeddings`, and an `lm_head` of its own (the `lm_head` is served)",
        tied=True,
        changes=("other-head",),
    ),
    _cell(
        "without-prefix",
        "LlamaConfig",
        about="tensor names without `model.`",
        **_HEAD,
        changes=("without-prefix",),
        refused_by_engine="does not take the weights",
    ),
    _cell("rotary-buffers", "LlamaConfig", about="rotary `inv_freq` buffers among the tensors", **_HEAD, changes=("rotary-buffers",)),
    _cell(
        "unknown-tensor",
        "LlamaConfig",
        about="a tensor that the architecture does not have",
        **_HEAD,
        changes=("unknown-tensor",),
        refused_by_engine="does not take the weights",
    ),
    _cell("without-metadata", "LlamaConfig", about="safetensors without metadata", **_HEAD, changes=("without-metadata",)),
    _cell(
        "without-a-projection",
        "LlamaConfig",
        about="a projection is missing",
        **_HEAD,
        changes=("without-a-projection",),
        refused="shape_mismatch",
        refused_by_engine="not in the weights",
    ),
    _cell("wide-heads", "LlamaConfig", about="`head_dim` that differs from hidden size / heads", head_dim=64),
    _cell("odd-vocabulary", "LlamaConfig", about="vocabulary of 1,031, no multiple of 64", **{**_HEAD, "vocab_size": 1031}),
    _cell("small-heads", "LlamaConfig", about="attention heads of 16", head_dim=16, refused="heads_not_on_cpu"),
    _cell("head-of-48", "LlamaConfig", about="attention heads of 48", head_dim=48),
)


@cache
def host() -> EngineHost:
    """Return what this machine's CPU can do."""
    return cpu_host(Path("/proc/cpuinfo").read_text(encoding="utf-8"))


def cell_named(name: str) -> Cell:
    """Return a cell by its name."""
    return next(cell for cell in CELLS if cell.name == name)
