"""How an engine's process is started. The one place that knows vLLM's flags and environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from core.engine_memory import cache_by_weights
from core.engines import EngineSpec
from core.errors import Refused
from core.reasons import Reason

_PASSED_ON = (
    *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TORCHINDUCTOR_CACHE_DIR"),
    *("TRITON_CACHE_DIR", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH"),
)
_STORE_ACCESS = "AWS_"  # the engine reads s3:// weights itself

VLLM_ENVIRON = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SKIP_MODEL_NAME_VALIDATION": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}
"""The environment of every engine, wherever it runs."""


class Launcher(Protocol):
    """Turns a spec into what a process is started from."""

    def command(self, spec: EngineSpec, port: int) -> list[str]:
        """Return the argument list of a server on 127.0.0.1:`port`. Raises Refused for a spec that it cannot serve."""
        ...

    def environ(self, spec: EngineSpec) -> dict[str, str]:
        """Return the server's whole environment."""
        ...


class VllmLauncher:
    """`<python> -m <module> <vLLM's flags>`.

    The environment is built from nothing but paths and locale: an engine runs a stranger's model and needs no secret of ours (where its
    weights lie in S3 it gets the AWS variables). Any `model` name in a request is accepted: one engine may serve several endpoints, and the
    gateway, which has authorised the name, forwards bodies unchanged; answers carry the version id as `model`.
    """

    def __init__(self, python: str, module: str, environ: Mapping[str, str], drain_limit_s: int = 600) -> None:
        self._python = python
        self._module = module
        self._given = environ
        self._drain_limit_s = drain_limit_s

    def command(self, spec: EngineSpec, port: int) -> list[str]:
        """Return vLLM's command line."""
        # On SIGTERM vLLM finishes the answers in flight; the engine supervisor kills it earlier if the stop has a shorter drain.
        flags = [
            *serve_flags(spec, host="127.0.0.1", port=port, drain_s=self._drain_limit_s),
            *cpu_flags(spec, _weights_on_disk(spec)),
        ]
        return [self._python, "-m", self._module, *flags]

    def environ(self, spec: EngineSpec) -> dict[str, str]:
        """Return the engine's environment: vLLM's settings on top of paths and locale."""
        s3 = spec.tensors_uri.startswith("s3:")
        access = {name: value for name, value in self._given.items() if s3 and name.startswith(_STORE_ACCESS)}
        return {**self.base_environ(), **access}

    def base_environ(self) -> dict[str, str]:
        """Return the environment of every engine, independent of its model."""
        passed = {name: value for name, value in self._given.items() if name in _PASSED_ON}
        # Process titles must not overwrite the environment, by which the engine supervisor identifies its processes.
        # Sockets between an engine's processes get names relative to its working directory: a path may have 107 bytes, a home any number.
        return {**passed, **VLLM_ENVIRON, "SPT_NOENV": "1", "VLLM_RPC_BASE_PATH": "."}


def serve_flags(spec: EngineSpec, *, host: str, port: int, drain_s: int) -> list[str]:
    """Return vLLM's flags that every engine has, wherever it runs. Raises Refused for a URI that engines do not read."""
    extra = {"tensors": _path_or_uri(spec.tensors_uri), "tensors_manifest_sha256": spec.tensors_manifest}
    options = {
        "--model": _path_or_uri(spec.model_uri),
        "--load-format": "seatrial",
        "--model-loader-extra-config": json.dumps(extra),
        "--served-model-name": spec.version,
        "--host": host,
        "--port": str(port),
        "--max-model-len": str(spec.max_model_len),
        "--dtype": spec.dtype,
        "--shutdown-timeout": str(drain_s),
    }
    if spec.quantization:
        options["--quantization"] = spec.quantization
    return [part for pair in options.items() for part in pair]


def cpu_flags(spec: EngineSpec, weights_bytes: int) -> list[str]:
    """Return the flags of an engine on CPUs, wherever it runs: its KV cache, and how many conversations it answers at a time."""
    bound = ["--max-num-seqs", str(spec.concurrency)] if spec.concurrency else []
    return ["--kv-cache-memory-bytes", str(cpu_cache(spec, weights_bytes)), "--enforce-eager", *bound]


def cpu_cache(spec: EngineSpec, weights_bytes: int) -> int:
    """Return the size of the KV cache of an engine on CPUs, in bytes."""
    return spec.cache_bytes or cache_by_weights(spec.memory_bytes, weights_bytes)


def _path_or_uri(uri: str) -> str:
    """Return a folder for file:///..., anything else as it is."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return unquote(parts.path)
    if parts.scheme in {"s3", ""}:
        return uri
    raise Refused(f"{uri}: engines read file:// and s3:// only", reason=Reason.BAD_URI, hint="check SEATRIAL_WEIGHTS_URL")


def _weights_on_disk(spec: EngineSpec) -> int:
    folder = Path(_path_or_uri(spec.tensors_uri))
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) if folder.is_dir() else spec.weights_bytes
