"""What the tests of the engine's environment share: sources to tensorize, a tiny model, processes, and waiting."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = Mapping[str, torch.Tensor]


def write_source(folder: Path, shards: Mapping[str, Tensors]) -> Path:
    """Write safetensors files, with an index when there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        save_file(dict(tensors), folder / name)
    if len(shards) > 1:
        weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def random_tensors(count: int, *, prefix: str = "layer", dtype: torch.dtype = torch.float32, width: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {f"{prefix}.{index}.weight": torch.randn(2, width, generator=generator).to(dtype) for index in range(count)}


def run_tensorize(*arguments: object, preamble: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as the platform does; `preamble` is Python that its process runs first."""
    program = f"{preamble}\nimport sys; from seatrial_engine.tensorize import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def error_of(completed: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Read the one JSON line that a failed command leaves on standard error."""
    (line,) = completed.stderr.splitlines()
    return json.loads(line)


def wait_until(condition: Callable[[], bool], deadline_s: float, what: str) -> None:
    pause, end = threading.Event(), time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        pause.wait(0.02)
