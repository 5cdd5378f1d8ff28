"""How an engine's memory is divided between its context and its KV cache: one computation for checks, engines and plans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from core.hosts import EngineHost
from core.settings import GIB, ModelPolicy
from core.versions import EngineNeeds

MIB: Final = 1024**2
SMALLEST_CACHE: Final = 128 * MIB
"""Below this the KV cache costs no time at the start (1 GiB costs 3 s)."""
RUNTIME_BYTES: Final = 3 * GIB
"""torch, vLLM and the interpreter, whatever the model (measured: 2.9 GB)."""
USABLE: Final = 0.92
"""Part of the memory that is planned for; a container is killed at the whole of it."""
_BLOCK_TOKENS: Final = 128
"""vLLM's block on the CPU: each conversation occupies whole blocks, and one block is reserved."""
_WEIGHTS_TIMES: Final = 16
_ANY_HOST: Final = EngineHost()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What an engine of one version gets. Lengths in tokens.

    `own_len` is the model's own context. `cache_bytes` is 0 where the cache cannot be computed from the configuration (recurrent layers):
    it then grows with the weights. `fits` is False when a conversation of ordinary length has no room. `dtype` is the type of numbers that
    the engine computes with, and `own_dtype` the model's.
    """

    max_model_len: int
    own_len: int
    cache_bytes: int
    concurrency: int
    conversation_len: int
    dtype: str
    own_dtype: str
    fits: bool = True
    cut_by_memory: bool = False

    def __str__(self) -> str:
        """Say it in one line, for the plan of a submission."""
        if self.max_model_len == self.own_len:
            context = f"context {self.max_model_len:,} tokens (the model's own)"
        elif self.cut_by_memory:
            context = f"context {self.max_model_len:,} of {self.own_len:,} tokens (what fits into memory)"
        else:
            context = f"context {self.max_model_len:,} of {self.own_len:,} tokens (SEATRIAL_MODELS_MAX_MODEL_LEN)"
        if self.dtype != self.own_dtype:
            context += f"; computes in {self.dtype} (the CPU lacks {self.own_dtype})"
        if not self.cache_bytes:
            return context
        conversations = f"{self.concurrency} conversations of {self.conversation_len:,} tokens"
        return f"{context}; KV cache {self.cache_bytes / MIB:,.0f} MiB for {conversations}"


def plan_memory(needs: EngineNeeds, policy: ModelPolicy, host: EngineHost = _ANY_HOST) -> MemoryPlan:
    """Divide the policy's engine memory for an engine on `host`.

    The context is the model's own, bounded by the setting and by the memory that weights and runtime leave. The cache holds
    `policy.concurrency` conversations of ordinary length or one of full length, whichever is more, as far as memory goes. The engine
    computes in float32 where the hardware lacks the model's type of numbers and the memory permits it without a shorter context.
    """
    own = _divided(needs, policy, needs.dtype)
    if host.computes(needs.dtype) or needs.quantized or not needs.kv_bytes_per_token:
        return own
    twice = replace(needs, dtype="float32", weights_bytes=2 * needs.weights_bytes, kv_bytes_per_token=2 * needs.kv_bytes_per_token)
    wide = _divided(twice, policy, needs.dtype)
    return wide if wide.fits and wide.max_model_len == own.max_model_len else own


def _divided(needs: EngineNeeds, policy: ModelPolicy, own_dtype: str) -> MemoryPlan:
    own = needs.max_model_len
    wanted = min(own, policy.max_model_len) if policy.max_model_len else own
    ordinary = min(wanted, policy.conversation_tokens)
    per_token = needs.kv_bytes_per_token
    if not per_token:
        fits = needs.weights_bytes <= policy.engine_memory_bytes
        return MemoryPlan(wanted, own, 0, policy.concurrency, ordinary, needs.dtype, own_dtype, fits=fits)
    budget = cache_budget(needs.weights_bytes, policy.engine_memory_bytes)
    context = min(wanted, max(0, budget // (_BLOCK_TOKENS * per_token) - 1) * _BLOCK_TOKENS)
    blocks = max(_blocks(context), policy.concurrency * _blocks(min(context, ordinary))) + 1
    cache = max(SMALLEST_CACHE, min(budget, blocks * _BLOCK_TOKENS * per_token)) if not needs.recurrent else 0
    return MemoryPlan(
        context,
        own,
        cache,
        policy.concurrency,
        min(context, ordinary),
        needs.dtype,
        own_dtype,
        fits=context >= ordinary,
        cut_by_memory=context < wanted,
    )


def cache_for(tokens: int, bytes_per_token: int) -> int:
    """Return the bytes of KV cache that one conversation of this length needs: whole blocks, and the block that vLLM reserves."""
    return (_blocks(tokens) + 1) * _BLOCK_TOKENS * bytes_per_token


def cache_budget(weights_bytes: int, memory_bytes: int) -> int:
    """Return the most that the KV cache may take: what weights and runtime leave, but a small cache as long as the weights alone fit."""
    beside_weights = memory_bytes - weights_bytes
    return min(beside_weights, max(int(memory_bytes * USABLE) - weights_bytes - RUNTIME_BYTES, SMALLEST_CACHE))


def cache_by_weights(memory_bytes: int, weights_bytes: int) -> int:
    """Return a KV cache's size where nothing is known of the model but the size of its weights."""
    return max(SMALLEST_CACHE, min(cache_budget(weights_bytes, memory_bytes), _WEIGHTS_TIMES * weights_bytes))


def container_bytes(memory_bytes: int, weights_bytes: int, cache_bytes: int) -> int:
    """Return the memory that an engine's container gets: its budget, or more if weights, cache and runtime do not fit into that.

    The part above `USABLE` stays free, because the kernel kills a container that reaches its limit.
    """
    return max(memory_bytes, int((weights_bytes + cache_bytes + RUNTIME_BYTES) / USABLE))


def _blocks(tokens: int) -> int:
    return -(-tokens // _BLOCK_TOKENS)
