"""Writes the model folders of `tests/equipment/architectures.py`: real architectures, random weights of a fixed seed, real layouts."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from quantised_layouts import quantised
from safetensors.torch import load_file, save_file

from tests.equipment.architectures import Cell

TOKENIZER: Final = Path(__file__).parents[1] / "equipment" / "models" / "steady"
_CARD: Final = "---\nlicense: apache-2.0\n---\n# Random weights, for tests\n"
_INDEX: Final = "model.safetensors.index.json"
_DECAY: Final = ("A_log", "dt_", ".D", "e_score_correction_bias")  # of state-space models: random values would explode

Change = Callable[[Path], None]


def build(cell: Cell, folder: Path) -> Path:
    """Write the cell's folder as an uploader would."""
    folder.mkdir(parents=True)
    torch.manual_seed(sum(cell.name.encode()))
    config = getattr(transformers, cell.config)(**cell.options, tie_word_embeddings=cell.tied)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _enliven(model)
    model = model.to(getattr(torch, cell.dtype)).eval()
    nbytes = sum(parameter.nbytes for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size="5GB" if cell.shards == 1 else nbytes // cell.shards)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    (folder / "README.md").write_text(_CARD)
    if cell.layout:
        _quantise(folder, cell)
    for change in cell.changes:
        CHANGES[change](folder)
    return folder


def shuffle(folder: Path) -> None:
    """Give each tensor of numbers the same values in another order."""
    generator = torch.Generator().manual_seed(1)
    for file in folder.glob("*.safetensors"):
        state = {name: _shuffled(tensor, generator) for name, tensor in load_file(file).items()}
        save_file(state, file, metadata={"format": "pt"})


def _shuffled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if tensor.ndim < 2 or tensor.numel() < 64:
        return tensor
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)


def _enliven(model: torch.nn.Module) -> None:
    """Scale the weights so that greedy answers vary and depend on every parameter: those of a new model are nearly constant."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in _DECAY):
                continue
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                embedding = "embed" in name or "wte" in name or "wpe" in name  # small: the layers must outweigh the token they read
                parameter.copy_(torch.randn_like(parameter) * (0.05 if embedding else 2 * parameter.shape[-1] ** -0.5))


def _quantise(folder: Path, cell: Cell) -> None:
    state, described = quantised(load_file(folder / "model.safetensors"), cell.layout, cell.skip)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _edit(folder, "config.json", quantization_config=described)


def _edit(folder: Path, name: str, **fields: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    document = {**json.loads((folder / name).read_text()), **fields}
    (folder / name).write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def _edit_state(folder: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> None:
    state = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def _config(**fields: Any) -> Change:
    return lambda folder: _edit(folder, "config.json", **fields)


def _legacy_rope(scaling: Mapping[str, Any] | None) -> Change:
    """Write rope_theta and rope_scaling at the top, as transformers 4 did."""
    return _config(rope_parameters=None, rope_theta=10000.0, rope_scaling=scaling)


def _copied_head(folder: Path) -> None:
    _edit_state(folder, lambda state: {**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()})


def _other_head(folder: Path) -> None:
    _edit_state(folder, lambda state: {**state, "lm_head.weight": state["model.embed_tokens.weight"].flip(0)})


def _without_prefix(folder: Path) -> None:
    _edit_state(folder, lambda state: {name.removeprefix("model."): tensor for name, tensor in state.items()})


def _rotary_buffers(folder: Path) -> None:
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(16) for layer in range(2)}
    _edit_state(folder, lambda state: {**state, **buffers})


def _unknown_tensor(folder: Path) -> None:
    _edit_state(folder, lambda state: {**state, "value_head.summary.weight": torch.ones(1, 128)})


def _without_metadata(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")


def _without_a_projection(folder: Path) -> None:
    _edit_state(folder, lambda state: {name: tensor for name, tensor in state.items() if "layers.1.mlp.down_proj" not in name})


def _old_dtype_name(folder: Path) -> None:
    dtype = json.loads((folder / "config.json").read_text())["dtype"]
    _edit(folder, "config.json", dtype=None, torch_dtype=dtype)


_LLAMA3: Final = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN: Final = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_LONGROPE: Final = {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}

CHANGES: Final[Mapping[str, Change]] = {
    "rope-default": _legacy_rope(None),
    "rope-linear": _legacy_rope({"type": "linear", "factor": 2.0}),
    "rope-dynamic": _legacy_rope({"type": "dynamic", "factor": 2.0}),
    "rope-llama3": _legacy_rope(_LLAMA3),
    "rope-yarn": _legacy_rope(_YARN),
    "rope-longrope": lambda folder: (
        _legacy_rope(_LONGROPE)(folder),
        _edit(folder, "config.json", original_max_position_embeddings=64),
    )[0],
    "copied-head": _copied_head,
    "other-head": _other_head,
    "without-prefix": _without_prefix,
    "rotary-buffers": _rotary_buffers,
    "unknown-tensor": _unknown_tensor,
    "without-metadata": _without_metadata,
    "without-a-projection": _without_a_projection,
    "old-dtype-name": _old_dtype_name,
}
