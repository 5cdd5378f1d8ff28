"""A CPU engine never uses AMX. No AMX CPU is needed: torch is made to report one, see `amx`."""

import json
import logging
import os
import subprocess
import sys
import types

import pytest
import torch
from amx import simulated_amx
from seatrial_engine import kernels
from vllm.logger import init_logger

PROGRAM = """
import json, multiprocessing, os, sys

def twice(x):
    return x + x

def choice():
    import torch
    found = torch.cpu._is_amx_tile_supported()
    from vllm.platforms import current_platform
    from vllm.plugins import load_general_plugins
    current_platform.is_cpu()
    before_plugins = torch.cpu._is_amx_tile_supported()
    load_general_plugins()
    from vllm.model_executor.layers.utils import check_cpu_sgl_kernel
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
    return {
        "found": found,
        "before_plugins": before_plugins,
        "attention": [_get_attn_isa(torch.bfloat16, 128, head) for head in (64, 80, 128)],
        "linear": check_cpu_sgl_kernel(128, 128, torch.bfloat16),
        "compiled": torch.compile(twice) is not twice,
    }

def tell(where, queue):
    queue.put((where, choice()))

if __name__ == "__main__":
    told = {"server": choice()}
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=tell, args=(method, queue))
        child.start()
        where, said = queue.get(timeout=240)
        told[where] = said
        child.join()
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("amx")
    (folder / "choices.py").write_text(PROGRAM)
    environ = {**os.environ, **simulated_amx(folder), "VLLM_PLUGINS": "seatrial", "SEATRIAL_ENGINE_FORK": "1"}
    done = subprocess.run([sys.executable, folder / "choices.py"], env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("process", ["server", "fork", "spawn"])
def test_no_process_of_an_engine_chooses_an_amx_kernel(choices: dict[str, dict[str, object]], process: str):
    chosen = choices[process]
    assert chosen["found"] is (process != "fork"), "AMX is simulated in what starts afresh; a fork has its parent's switch"
    assert chosen["before_plugins"] is False, "the platform plugin comes before every choice"
    assert "amx" not in chosen["attention"]
    assert chosen["linear"] is False


@pytest.mark.slow
@pytest.mark.parametrize("process", ["server", "fork", "spawn"])
def test_no_process_of_an_engine_needs_a_compiler(choices: dict[str, dict[str, object]], process: str):
    assert choices[process]["compiled"] is False


def test_the_switch_hides_amx_and_keeps_in_mind_that_it_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(kernels._off, "hidden", False)
    kernels.switch_amx_off()
    kernels.switch_amx_off()
    assert torch.cpu._is_amx_tile_supported() is False
    assert kernels._off.hidden is True


def test_the_switch_fails_loudly_when_torch_has_no_such_function(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    with pytest.raises(AttributeError, match="_is_amx_tile_supported"):
        kernels.switch_amx_off()


def attention_module(monkeypatch: pytest.MonkeyPatch, **members: object) -> types.ModuleType:
    module = types.ModuleType(kernels._ATTENTION)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, kernels._ATTENTION, module)
    return module


def test_an_engine_that_would_use_amx_attention_all_the_same_is_refused(monkeypatch: pytest.MonkeyPatch):
    module = attention_module(monkeypatch, _get_attn_isa=lambda *_arguments: "amx")
    kernels.report_attention_kernel()
    with pytest.raises(kernels.ForbiddenKernelError, match="wrong answers"):
        module._get_attn_isa(torch.bfloat16, 128, 64)


def test_an_engine_of_a_vllm_that_chooses_elsewhere_does_not_start(monkeypatch: pytest.MonkeyPatch):
    attention_module(monkeypatch)
    with pytest.raises(AttributeError, match="_get_attn_isa"):
        kernels.report_attention_kernel()


class Records(logging.Handler):
    """Keeps what is logged, whether or not the logger passes it on to the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_each_kernel_is_logged_once(monkeypatch: pytest.MonkeyPatch):
    module = attention_module(monkeypatch, _get_attn_isa=lambda *_arguments: "vec")
    monkeypatch.setattr(kernels._off, "hidden", True)
    logger, kept = init_logger("vllm.seatrial"), Records()
    monkeypatch.setattr(logger, "handlers", [kept])
    monkeypatch.setattr(logger, "level", logging.INFO)
    for _turn in range(2):
        kernels.report_attention_kernel()
        assert module._get_attn_isa(torch.bfloat16, 128, 64) == "vec"
    (said,) = kept.messages
    assert said.startswith("seatrial: attention kernel vec; AMX is switched off")
