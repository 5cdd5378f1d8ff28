"""The reference by transformers, and real vLLM beside it: correct engines pass the fidelity trial, faulty engines fail.

In the gate one engine of a tiny model; in `make test-release` also SmolLM2 in every data type and quantised, and each fault in the engine.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from quantised_layouts import quantised
from safetensors.torch import load_file, save_file
from seatrial_engine.reference import _group_free, main
from test_smollm2 import engine, model  # noqa: F401 - a fixture

from core.fidelity import Reference
from core.ids import Digest, VersionId
from core.versions import Decision, EngineNeeds, ModelVersion, TrialReport
from evals.engine_client import EngineClient
from evals.fidelity import fidelity
from registry.reference import read_reference

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

ROOT = Path(__file__).resolve().parents[2]
STEADY = ROOT / "tests" / "equipment" / "models" / "steady"
Tensors = dict[str, torch.Tensor]


def reference_of(folder: Path, out: Path, *arguments: str) -> Reference:
    """Return what the program computes for the model in `folder`."""
    assert main([str(folder), str(out), *arguments]) == 0
    return read_reference(json.loads(out.read_bytes()))


def altered(folder: Path, out: Path, change: Callable[[Tensors], Tensors] = dict, **config: object) -> Path:
    """Copy a model with other weights or another configuration."""
    shutil.copytree(folder, out)
    save_file(change(load_file(folder / "model.safetensors")), out / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**described, **config}))
    return out


def permuted(state: Tensors) -> Tensors:
    """Interleave the halves of each head of the query projections, as an engine does that takes one rotary layout for the other."""
    return {name: interleaved(tensor) if "q_proj" in name else tensor for name, tensor in state.items()}


def interleaved(weight: torch.Tensor, head: int = 32) -> torch.Tensor:
    return weight.reshape(-1, 2, head // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape).contiguous()


def tried(served: Path, reference: Reference, dtype: str, log: Path, *arguments: str, quantized: bool = False) -> TrialReport:
    """Serve the model in `served` and compare the engine with a reference."""
    with engine(["--model", str(served), "--dtype", dtype, *arguments], log) as port:
        return compared(port, reference, dtype, quantized=quantized)


def compared(port: int, reference: Reference, dtype: str, *, quantized: bool = False) -> TrialReport:
    needs = EngineNeeds("LlamaForCausalLM", dtype, 1, 512, quantized=quantized)
    version = ModelVersion(VersionId("tiny"), "org/m", "c" * 40, (), Digest(""), Digest(""), "mit", None, needs, 0.0)
    with EngineClient(f"http://127.0.0.1:{port}", version.id) as client:
        report = fidelity(client, version, reference)
    print(report.findings[0].reason, report.numbers)  # noqa: T201 - the figures of docs/fidelity.md
    return report


def test_the_engine_of_a_tiny_model_passes_and_one_of_other_weights_or_positions_fails(tmp_path: Path):
    right = reference_of(STEADY, tmp_path / "right.json")
    others = {
        "permuted": altered(STEADY, tmp_path / "permuted", permuted),
        "theta": altered(STEADY, tmp_path / "theta", rope_parameters={"rope_theta": 100.0, "rope_type": "default"}),
    }
    wrong = {name: reference_of(folder, tmp_path / f"{name}.json") for name, folder in others.items()}
    with engine(["--model", str(STEADY), "--dtype", "bfloat16"], tmp_path / "engine.log") as port:
        decisions = {name: compared(port, known, "bfloat16").decision for name, known in {"right": right, **wrong}.items()}
    assert decisions == {"right": Decision.PASS, "permuted": Decision.FAIL, "theta": Decision.FAIL}


def test_a_model_above_the_limit_has_no_reference(tmp_path: Path):
    reference = reference_of(STEADY, tmp_path / "reference.json", "--max-bytes", "1000")
    assert reference.prompts == ()
    assert "above the limit of 0.0 GB" in reference.unavailable


def test_a_model_whose_files_lack_a_weight_has_no_reference(tmp_path: Path):
    lacking = altered(STEADY, tmp_path / "lacking", lambda state: {name: it for name, it in state.items() if "layers.1.mlp.up" not in name})
    reference = reference_of(lacking, tmp_path / "reference.json")
    assert reference.unavailable == "transformers finds no values for model.layers.1.mlp.up_proj.weight and 0 other weights"


@pytest.mark.release
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_smollm2_passes_in_each_data_type(model: Path, dtype: str, tmp_path: Path):  # noqa: F811
    report = tried(model, reference_of(model, tmp_path / "reference.json"), dtype, tmp_path / "engine.log")
    assert report.decision is Decision.PASS


@pytest.mark.release
def test_smollm2_in_eight_bits_passes(model: Path, tmp_path: Path):  # noqa: F811
    state, described = quantised(load_file(model / "model.safetensors"), "w8a8")
    described = {**described, "quantization_status": "compressed"}
    folder = altered(model, tmp_path / "w8a8", lambda _state: state, quantization_config=described)
    report = tried(folder, reference_of(folder, tmp_path / "reference.json"), "bfloat16", tmp_path / "engine.log", quantized=True)
    assert report.decision is Decision.PASS


@pytest.mark.release
@pytest.mark.parametrize("fault", ["theta", "permuted"])
def test_smollm2_with_a_fault_in_the_engine_fails(model: Path, fault: str, tmp_path: Path):  # noqa: F811
    rope = json.dumps({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}})
    served = altered(model, tmp_path / "permuted", lambda state: {n: interleaved(t, 64) if "q_proj" in n else t for n, t in state.items()})
    folder, arguments = (model, ["--hf-overrides", rope]) if fault == "theta" else (served, [])
    report = tried(folder, reference_of(model, tmp_path / "reference.json"), "bfloat16", tmp_path / "engine.log", *arguments)
    assert report.decision is Decision.FAIL


def test_a_control_group_leaves_its_limit_without_what_is_used_but_the_page_cache(tmp_path: Path):
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "900\n",
        "memory.stat": "anon 300\ninactive_file 450\nactive_file 150\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert list(_group_free(tmp_path)) == [700]


def test_a_control_group_without_a_limit_leaves_what_the_machine_has(tmp_path: Path):
    for name, text in {"memory.max": "max\n", "memory.current": "900\n", "memory.stat": "inactive_file 450\n"}.items():
        (tmp_path / name).write_text(text)
    assert list(_group_free(tmp_path)) == []
