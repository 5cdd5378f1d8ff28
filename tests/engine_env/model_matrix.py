"""Runs many models through real vLLM in little time: one process imports vLLM, and each model gets a forked child of its own.

    python model_matrix.py FOLDER CELL...

A child builds its model, serves it from plain safetensors, tensorizes it and serves it with our loader from a folder without
safetensors, as the platform does. Each outcome is one line of JSON on standard output. A child that dies by a signal ends its own
cell only.
"""

import hashlib
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.equipment.architectures import CELLS, Cell

PROMPTS: Final = ([5, 17, 300, 42, 7, 99, 512, 3], list(range(100, 140)), [700, 2, 700, 9])
TOKENS: Final = 16
_ENVIRONMENT: Final = {
    "VLLM_PLUGINS": "seatrial",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core runs in the child itself
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OPENBLAS_NUM_THREADS": "1",  # no thread may run beside the fork
    "OMP_NUM_THREADS": "1",
}
_IMPORTED_BEFORE_THE_FORK: Final = (
    "vllm.entrypoints.llm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.transformers",
    "seatrial_engine.loader",
    "seatrial_engine.tensorize",
    "model_builder",
)


@dataclass
class Outcome:
    """One cell's end. `stage` is the last one that began: build, plain, tensorize, ours, shuffled, done."""

    name: str
    stage: str = "build"
    error: str = ""
    plain: list[list[int]] = field(default_factory=list)
    ours: list[list[int]] = field(default_factory=list)
    shuffled: list[list[int]] = field(default_factory=list)
    files: int = 0
    seconds: float = 0.0


def main(folder: Path, names: list[str]) -> None:
    """Run the named cells, as many at once as there are cores, and print each outcome."""
    os.environ.update(_ENVIRONMENT)
    for module in _IMPORTED_BEFORE_THE_FORK:
        importlib.import_module(module)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        message = f"forking needs a process of one thread, this one has {threads}"
        raise RuntimeError(message)
    cells = {cell.name: cell for cell in CELLS}
    running: dict[int, Cell] = {}
    for name in names:
        if len(running) >= len(os.sched_getaffinity(0)):
            _collect(folder, running)
        pid = os.fork()
        if pid == 0:
            _run_and_exit(cells[name], folder)
        running[pid] = cells[name]
    while running:
        _collect(folder, running)


def _collect(folder: Path, running: dict[int, Cell]) -> None:
    pid, status = os.wait()
    cell = running.pop(pid)
    outcome = json.loads((folder / f"{cell.name}.json").read_text())
    code = os.waitstatus_to_exitcode(status)
    if code:
        outcome["error"] = f"the process ended with {code} (negative: the signal)"
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()


def _run_and_exit(cell: Cell, folder: Path) -> NoReturn:
    log = os.open(folder / f"{cell.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    outcome, started = Outcome(cell.name), time.monotonic()
    try:
        _run(cell, folder, outcome)
    except BaseException as error:  # noqa: BLE001 - whatever ends a model is this cell's outcome
        traceback.print_exc()
        outcome.error = f"{type(error).__name__}: {error}"[-2000:]
    outcome.seconds = round(time.monotonic() - started, 1)
    _write(folder, outcome)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _write(folder: Path, outcome: Outcome) -> None:
    (folder / f"{outcome.name}.json").write_text(json.dumps(asdict(outcome)))


def _run(cell: Cell, folder: Path, outcome: Outcome) -> None:
    from model_builder import build, shuffle  # noqa: PLC0415 - imported before the fork
    from seatrial_engine.tensorize import tensorize  # noqa: PLC0415

    def begin(stage: str) -> None:
        outcome.stage = stage
        _write(folder, outcome)

    begin("build")
    model = build(cell, folder / cell.name)
    begin("plain")
    if not cell.refused_by_engine:  # vLLM alone serves some of these with parameters that were never loaded
        outcome.plain = generate(model, cell, {})
    if cell.refused_here and not cell.refused_by_engine:
        return
    begin("tensorize")
    weights = folder / f"{cell.name}.tensors"
    outcome.files = len(tensorize(model, weights, cell.tensors_bytes).files)
    begin("ours")
    sha256 = hashlib.sha256((weights / "tensors.json").read_bytes()).hexdigest()
    extra = {"tensors": str(weights), "tensors_manifest_sha256": sha256}
    bare = shutil.copytree(model, folder / f"{cell.name}.bare", ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    outcome.ours = generate(bare, cell, {"load_format": "seatrial", "model_loader_extra_config": extra})
    if cell.sample:
        begin("shuffled")
        shuffle(model)
        outcome.shuffled = generate(model, cell, {})
    begin("done")


def generate(folder: Path, cell: Cell, load: Mapping[str, Any]) -> list[list[int]]:
    """Return real vLLM's greedy tokens for each prompt."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - the environment is set first
    from vllm.inputs import TokensPrompt  # noqa: PLC0415
    from vllm.model_executor.models import registry  # noqa: PLC0415

    registry._run_in_subprocess = lambda inspect: inspect()  # vLLM would import itself once more for each architecture
    llm = LLM(
        model=str(folder),
        dtype=cell.dtype,
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=4,
        kv_cache_memory_bytes=32 << 20,
        disable_log_stats=True,
        **load,
    )
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    answers = llm.generate([TokensPrompt(prompt_token_ids=prompt) for prompt in PROMPTS], sampling, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
