"""The engine's vLLM serves this architecture on the engines' hardware. `vllm.json` is written by the engine's environment (README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from core.reasons import Reason
from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.reading import shown
from evals.checks.report import NotCheckable, fail, first_of

_GPU_ONLY: Final = {
    "MambaForCausalLM": "its selective scan has no CPU kernel",
    "FalconMambaForCausalLM": "its selective scan has no CPU kernel",
    "JambaForCausalLM": "its selective scan has no CPU kernel",
    "DeepseekV32ForCausalLM": "its sparse attention has no CPU kernel",
    "GlmMoeDsaForCausalLM": "its sparse attention has no CPU kernel",
    "OlmoHybridForCausalLM": "its linear attention needs Triton, which has no CPU backend",
}
"""Measured by tests/engine_env/test_architectures.py: vLLM's CPU build fails on them."""

_KINDS: Final = {
    "multimodal": "is a multimodal model",
    "embedding": "is an embedding model, which generates no text",
    "reward": "is a reward model, which generates no text",
    "classification": "is a classifier, which generates no text",
    "draft": "is a draft model for speculative decoding",
}
_SUFFIXES: Final = {  # vLLM knows these by name only in part
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "classification",
    "ForMaskedLM": "embedding",
    "ForConditionalGeneration": "multimodal",
}
_SERVE_ANOTHER: Final = "Submit a text-generation model that docs/models.md lists, such as LlamaForCausalLM or Qwen3ForCausalLM"


@cache
def vllm() -> dict[str, Any]:
    """Return what the engine's vLLM knows: architectures by kind, model types, latent attention, quantisation methods."""
    document: dict[str, Any] = json.loads(Path(__file__).with_name("vllm.json").read_text(encoding="utf-8"))
    return document


@cache
def known_architectures() -> frozenset[str]:
    """Return the names of the text-generation architectures of the engine's vLLM."""
    return frozenset(vllm()["served"])


@cache
def latent_attention() -> frozenset[str]:
    """Return the model types for which the engine's vLLM has multi-head latent attention, on CPUs as on GPUs."""
    return frozenset(vllm()["latent_attention"])


@cache
def _model_types() -> frozenset[str]:
    return frozenset(vllm()["model_types"])


def served_architecture(files: ModelFiles) -> Iterator[Finding]:
    """Compare config.json's `architectures` and `model_type` with what vLLM serves on this hardware without the model's own code."""
    name = _known(files)
    if name is None:
        yield _unserved(files)
    elif not files.host.gpu and name in _GPU_ONLY:
        yield fail(
            Reason.ARCHITECTURE_NEEDS_GPU,
            f"{files.model}: vLLM {vllm()['vllm']} serves {name} on GPUs only: {_GPU_ONLY[name]}",
            "Submit a model of another architecture, or run engines on GPUs",
        )
    else:
        yield from _readable_type(files)


def architecture(files: ModelFiles) -> str:
    """Return the architecture that the engine will take. Raises NotCheckable."""
    found = _known(files)
    if found is None:
        raise NotCheckable
    return found


def _readable_type(files: ModelFiles) -> Iterator[Finding]:
    kind = files.config.get("model_type")
    if not isinstance(kind, str) or not kind:
        yield fail(
            Reason.NO_MODEL_TYPE,
            f"{files.model}: config.json has no model_type, by which transformers chooses how to read it",
            "Add the model_type of the architecture to config.json (save_pretrained writes it) and submit again",
        )
    elif kind not in _model_types():
        yield fail(
            Reason.MODEL_TYPE_NEEDS_CODE,
            f"{files.model}: config.json has the model_type {kind[:80]}, which only the model's own code can read; it is never run",
            _SERVE_ANOTHER,
        )


def _unserved(files: ModelFiles) -> Finding:
    named = _named(files)
    other, removed = vllm()["other"], vllm()["removed"]
    for name in named:
        if name in removed:
            return fail(
                Reason.ARCHITECTURE_REMOVED,
                f"{files.model}: vLLM served {name} up to version {removed[name]}, the engine has {vllm()['vllm']}",
                _SERVE_ANOTHER,
            )
        kind = other.get(name) or next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)
        if kind is not None:
            return fail(
                Reason.NOT_A_TEXT_MODEL, f"{files.model}: {name[:80]} {_KINDS[kind]}; engines serve text generation", _SERVE_ANOTHER
            )
    return fail(Reason.UNKNOWN_ARCHITECTURE, f"{files.model}: {_unknown(files, named)}", _SERVE_ANOTHER)


def _unknown(files: ModelFiles, named: list[str]) -> str:
    stated = files.config.get("architectures")
    if stated is None:
        return "config.json has no `architectures`"
    if not named:
        return f"`architectures` in config.json must be a list of names, got {shown(stated)}"
    return f"vLLM {vllm()['vllm']} does not serve the architecture {first_of(named)} for text generation"


def _known(files: ModelFiles) -> str | None:
    return next((name for name in _named(files) if name in known_architectures()), None)


def _named(files: ModelFiles) -> list[str]:
    names = files.config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
