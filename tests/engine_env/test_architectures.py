"""The kinds of models that people deploy: checked, tensorized, loaded by us, and greedy tokens equal to plain safetensors' on real vLLM."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from equipment import write_source
from seatrial_engine.known import known
from seatrial_engine.manifest import header_only_safetensors
from seatrial_engine.tensorize import tensorize

from tests.equipment.architectures import CELLS, VLLM_JSON, Cell, cell_named

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / ".venv" / "bin" / "python"
GATE = [cell.name for cell in CELLS if cell.gate]
REST = [cell.name for cell in CELLS if not cell.gate]


class Matrix:
    """The outcomes of real vLLM, and the failed checks, by cell."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        script = [sys.executable, str(Path(__file__).with_name("model_matrix.py")), str(folder), *names]
        done = subprocess.run(script, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=3600, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        self.outcomes: Mapping[str, dict[str, Any]] = {line["name"]: line for line in lines}
        self.reasons = reasons_of_the_platform([folder / name for name in names])
        self._print()

    def _print(self) -> None:
        for name, outcome in self.outcomes.items():
            end = outcome["error"].strip().splitlines()[-1:] if outcome["error"] else ["equal" if outcome["ours"] else ""]
            sys.stdout.write(
                f"{name:24} {outcome['stage']:9} {outcome['seconds']:6.1f} s  {','.join(self.reasons[name]) or '-':28} {end[0][:90]}\n"
            )


def reasons_of_the_platform(folders: list[Path]) -> dict[str, list[str]]:
    """Run the checks as the platform does: in its own environment."""
    script = [str(PLATFORM), "-m", "tests.equipment.checked", *map(str, folders)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(tmp_path_factory.mktemp("gate"), GATE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(tmp_path_factory.mktemp("matrix"), REST)


def assert_as_declared(matrix: Matrix, cell: Cell):
    outcome, reasons = matrix.outcomes[cell.name], matrix.reasons[cell.name]
    if cell.refused_by_engine:  # ours refuses it too, should it pass the checks
        assert reasons == [reason for reason in [cell.refused] if reason]
        assert (outcome["stage"], cell.refused_by_engine in outcome["error"]) == ("ours", True), outcome["error"]
        return
    if cell.refused_here:
        assert reasons == [cell.refused_here]
        assert outcome["stage"] == "plain", "real vLLM serves it: let the checks accept it"
        assert outcome["error"]
        return
    assert reasons == [], outcome
    assert (outcome["stage"], outcome["error"]) == ("done", "")
    assert outcome["ours"] == outcome["plain"]
    assert [len(answer) for answer in outcome["plain"]] == [16, 16, 16]
    assert len({token for answer in outcome["plain"] for token in answer}) >= 5, "answers that do not vary prove nothing"
    if cell.sample:
        assert outcome["shuffled"] != outcome["plain"]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("name", GATE)
def test_a_representative_model_answers_as_from_its_safetensors(gate: Matrix, name: str):
    assert_as_declared(gate, cell_named(name))


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.release
@pytest.mark.parametrize("name", REST)
def test_every_kind_of_model_answers_as_from_its_safetensors_or_is_refused(whole: Matrix, name: str):
    assert_as_declared(whole, cell_named(name))


def test_the_checks_know_what_the_installed_vllm_knows():
    assert json.loads(VLLM_JSON.read_text()) == known(), "write evals/checks/vllm.json again: evals/README.md has the command"


@pytest.mark.slow
@pytest.mark.vllm
def test_awq_and_gptq_find_their_unquantised_layers_without_the_safetensors(tmp_path: Path):
    from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig  # noqa: PLC0415 - takes seconds
    from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig  # noqa: PLC0415

    packed = {"layers.0.mlp.qweight": torch.zeros(4, 4, dtype=torch.int32), "layers.0.mlp.scales": torch.ones(1, 4, dtype=torch.float16)}
    whole = {"layers.1.mlp.weight": torch.ones(4, 4, dtype=torch.float16)}
    manifest = tensorize(write_source(tmp_path / "source", {"model.safetensors": {**packed, **whole}}), tmp_path / "weights")
    (tmp_path / "headers").mkdir()
    header_only_safetensors(tmp_path / "headers" / "model.safetensors", manifest)
    awq = AutoAWQConfig.from_config({"bits": 4, "group_size": 32, "zero_point": True})
    gptq = AutoGPTQConfig.from_config({"bits": 4, "group_size": 32, "desc_act": False, "sym": True})
    for config in (awq, gptq):
        config.maybe_update_config(str(tmp_path / "headers"))
    assert awq.modules_to_not_convert == ["layers.1.mlp"]
    assert gptq.modules_in_block_to_quantize == ["layers.0.mlp"]
