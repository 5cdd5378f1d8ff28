"""A tiny sound model in a folder, and ways to break it: for the checks, the flows and the demo of refusals. Never served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from core.ids import Digest
from core.versions import HubFile, ModelRef, ResolvedModel

TOKENIZER = Path(__file__).parent / "models" / "steady" / "tokenizer.json"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float32",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "vocab_size": 16,
}
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
SHARDS = {"model-00001-of-00002.safetensors": ("embed", "layer"), "model-00002-of-00002.safetensors": ("head",)}


def sound_model(folder: Path) -> Path:
    """Write two shards with an index, a configuration, a tokenizer, a template and a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(7)
    for path, names in SHARDS.items():
        save_file({name: numbers.standard_normal((16, 8), dtype=np.float32) for name in names}, folder / path)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {name: path for path, names in SHARDS.items() for name in names}})
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|end|>", "chat_template": TEMPLATE})
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n", encoding="utf-8")
    return folder


def listed(folder: Path, **fields: Any) -> ResolvedModel:
    """Return the folder as a hub would list it."""
    files = tuple(
        HubFile(str(path.relative_to(folder)), path.stat().st_size, Digest("0" * 64))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    return replace(ResolvedModel(ModelRef("org/tiny"), "1a2b3c4d" * 5, files), **fields)


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def change_json(name: str, **fields: Any) -> Callable[[Path], None]:
    """Return a way to change fields of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
        document.update(fields)
        write_json(folder / name, {key: value for key, value in document.items() if value is not None})

    return change


def rewrite_shard(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Return a way to change the header of the first shard, its bytes kept."""

    def rewrite(folder: Path) -> None:
        path = folder / next(iter(SHARDS))
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])

    return rewrite


def poison(dtype: Any, bits: int, *, at: int = -1) -> Callable[[Path], None]:
    """Return a way to put one bit pattern into the last tensor."""

    def put(folder: Path) -> None:
        path = folder / list(SHARDS)[-1]
        raw = bytearray(path.read_bytes())
        width = np.dtype(dtype).itemsize
        begin = len(raw) + at * width
        raw[begin : begin + width] = np.array([bits], dtype=dtype).tobytes()
        path.write_bytes(raw)

    return put


def cut(folder: Path) -> None:
    """Cut the last shard in the middle of its tensor."""
    path = folder / list(SHARDS)[-1]
    path.write_bytes(path.read_bytes()[:-100])


def save_weights(folder: Path, tensors: dict[str, Any]) -> None:
    """Replace all weights by one file."""
    for path in (*SHARDS, "model.safetensors.index.json"):
        (folder / path).unlink()
    save_file(tensors, folder / "model.safetensors")
