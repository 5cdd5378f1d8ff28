"""The context that an engine gets, and the size of its KV cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.engine_memory import MIB, RUNTIME_BYTES, SMALLEST_CACHE, USABLE, container_bytes, plan_memory
from core.engines import EngineSpec
from core.hosts import EngineHost
from core.ids import Digest, VersionId
from core.settings import GIB, ModelPolicy
from core.versions import EngineNeeds
from evals.checks.memory import kv_bytes_per_token, own_context
from serving.engines.launcher import cpu_flags

SMOLLM2 = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
}
NEEDS = EngineNeeds("LlamaForCausalLM", "bfloat16", 269_000_000, 8192, 9, kv_bytes_per_token=23_040)
POLICY = ModelPolicy()


def test_a_real_model_gets_its_own_context_and_a_cache_for_the_expected_conversations() -> None:
    assert kv_bytes_per_token(SMOLLM2, "bfloat16") == NEEDS.kv_bytes_per_token
    assert own_context(SMOLLM2) == 8192
    plan = plan_memory(NEEDS, POLICY)
    assert (plan.max_model_len, plan.concurrency, plan.fits) == (8192, 16, True)
    assert plan.cache_bytes == (16 * 8 + 1) * 128 * 23_040
    assert str(plan) == "context 8,192 tokens (the model's own); KV cache 363 MiB for 16 conversations of 1,024 tokens"


def test_the_setting_bounds_the_context() -> None:
    plan = plan_memory(NEEDS, replace(POLICY, max_model_len=4096))
    assert plan.max_model_len == 4096
    assert "context 4,096 of 8,192 tokens (SEATRIAL_MODELS_MAX_MODEL_LEN)" in str(plan)


def test_the_cache_holds_one_conversation_of_full_length_at_least() -> None:
    plan = plan_memory(replace(NEEDS, max_model_len=32_768), POLICY)
    assert plan.cache_bytes >= 32_768 * NEEDS.kv_bytes_per_token


def test_what_does_not_fit_into_memory_is_cut_and_the_plan_says_so() -> None:
    large = replace(NEEDS, weights_bytes=4 * GIB, max_model_len=131_072, kv_bytes_per_token=131_072)
    plan = plan_memory(large, POLICY)
    assert plan.fits
    assert plan.cut_by_memory
    assert plan.max_model_len * large.kv_bytes_per_token <= plan.cache_bytes <= 8 * GIB - 4 * GIB
    assert f"context {plan.max_model_len:,} of 131,072 tokens (what fits into memory)" in str(plan)


def test_a_model_without_room_for_one_ordinary_conversation_does_not_fit() -> None:
    assert not plan_memory(replace(NEEDS, weights_bytes=8 * GIB - 10 * MIB), POLICY).fits
    assert not plan_memory(replace(NEEDS, weights_bytes=9 * GIB, kv_bytes_per_token=0), POLICY).fits


def test_a_tiny_model_gets_the_smallest_cache_which_costs_no_start() -> None:
    assert (
        plan_memory(replace(NEEDS, weights_bytes=860_000, max_model_len=1024, kv_bytes_per_token=1024), POLICY).cache_bytes
        == SMALLEST_CACHE
    )


def test_a_cache_that_cannot_be_computed_is_left_to_the_weights_size() -> None:
    assert plan_memory(replace(NEEDS, recurrent=True), POLICY).cache_bytes == 0
    assert plan_memory(replace(NEEDS, kv_bytes_per_token=0), POLICY).cache_bytes == 0


@pytest.mark.parametrize(
    ("more", "context"),
    [
        ({}, 8192),
        ({"max_position_embeddings": None}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"model_max_length": 131_072}, 131_072),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 32_768),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 16_384),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}}, 8192),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 8192),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 8192),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}, "model_type": "gemma3_text"}, 8192),
        ({"rope_scaling": {"type": "linear", "factor": None}}, 8192),
        ({"sliding_window": 4096}, 8192),
    ],
)
def test_the_context_is_derived_as_vllm_does(more: dict[str, Any], context: int) -> None:
    assert own_context({**SMOLLM2, **more}) == context


DEEPSEEK_V2_LITE = {
    "model_type": "deepseek_v2",
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "hidden_size": 2048,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
MINICPM3_4B = {
    "model_type": "minicpm3",
    "num_hidden_layers": 62,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "hidden_size": 2560,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}


@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3"])
def test_latent_attention_stores_one_vector_per_layer(model_type: str) -> None:
    assert kv_bytes_per_token({**DEEPSEEK_V2_LITE, "model_type": model_type}, "bfloat16") == 27 * (512 + 64) * 2


def test_a_latent_model_whose_vectors_vllm_decompresses_stores_keys_and_values_of_every_head() -> None:
    assert kv_bytes_per_token(MINICPM3_4B, "bfloat16") == 2 * 62 * 40 * (64 + 32) * 2


def test_a_latent_model_of_unknown_type_counts_with_the_larger_cache() -> None:
    assert kv_bytes_per_token({**DEEPSEEK_V2_LITE, "model_type": "another"}, "bfloat16") == 2 * 27 * 16 * (128 + 64) * 2


@pytest.mark.parametrize("weights", [860_000, 269_000_000, 4 * GIB])
def test_a_plan_that_fits_with_the_runtime_needs_no_larger_container(weights: int) -> None:
    plan = plan_memory(replace(NEEDS, weights_bytes=weights, max_model_len=131_072), POLICY)
    assert container_bytes(8 * GIB, weights, plan.cache_bytes) == 8 * GIB


def test_a_container_that_the_runtime_does_not_fit_into_is_enlarged() -> None:
    weights = 6 * GIB
    cache = plan_memory(replace(NEEDS, weights_bytes=weights), POLICY).cache_bytes
    enlarged = container_bytes(8 * GIB, weights, cache)
    assert weights + cache + RUNTIME_BYTES <= enlarged * USABLE + 1
    assert enlarged < 10 * GIB


def test_engines_of_earlier_releases_keep_the_flags_that_they_were_tried_with() -> None:
    old = EngineSpec(VersionId("v" * 64), "file:///m", "file:///t", Digest("d" * 64), 1024, "bfloat16", 8 * GIB)
    assert cpu_flags(old, 100 * MIB) == ["--kv-cache-memory-bytes", str(1600 * MIB), "--enforce-eager"]
    new = replace(old, cache_bytes=512 * MIB, concurrency=16)
    assert cpu_flags(new, 100 * MIB) == ["--kv-cache-memory-bytes", str(512 * MIB), "--enforce-eager", "--max-num-seqs", "16"]


@pytest.mark.parametrize(
    ("weights", "per_token", "own"), [(2_471_645_608, 32_768, 131_072), (1_192_135_096, 114_688, 40_960), (2 * GIB, 114_688, 40_960)]
)
def test_a_cut_context_fits_into_whole_blocks_beside_the_one_that_vllm_reserves(weights: int, per_token: int, own: int) -> None:
    plan = plan_memory(replace(NEEDS, weights_bytes=weights, max_model_len=own, kv_bytes_per_token=per_token), POLICY)
    blocks = -(-plan.max_model_len // 128) + 1
    assert plan.cut_by_memory
    assert blocks * 128 * per_token <= plan.cache_bytes


WITHOUT_BFLOAT16 = EngineHost(bfloat16=False)


def test_a_cpu_without_bfloat16_computes_in_float32_with_twice_the_memory() -> None:
    own, wide = plan_memory(NEEDS, POLICY), plan_memory(NEEDS, POLICY, WITHOUT_BFLOAT16)
    assert (own.dtype, wide.dtype) == ("bfloat16", "float32")
    assert wide.cache_bytes == 2 * own.cache_bytes
    assert "computes in float32 (the CPU lacks bfloat16)" in str(wide)
    assert "float32" not in str(own)


@pytest.mark.parametrize(
    "needs",
    [
        replace(NEEDS, dtype="float16"),
        replace(NEEDS, quantized=True),
        replace(NEEDS, kv_bytes_per_token=0),
        replace(NEEDS, weights_bytes=4 * GIB),  # as float32 its weights alone fill the memory
        replace(NEEDS, weights_bytes=GIB, max_model_len=65_536, kv_bytes_per_token=65_536),  # would shorten its context
    ],
)
def test_the_models_own_type_stays_where_float32_does_not_fit(needs: EngineNeeds) -> None:
    assert plan_memory(needs, POLICY, WITHOUT_BFLOAT16) == plan_memory(needs, POLICY)


def test_a_gpu_computes_in_the_models_own_type() -> None:
    assert plan_memory(NEEDS, POLICY, replace(WITHOUT_BFLOAT16, gpu=True)).dtype == "bfloat16"
