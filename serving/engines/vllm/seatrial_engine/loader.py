"""vLLM's load format `seatrial`: tensorized weights, verified, through the model's own `load_weights`.

    --model FOLDER_WITH_CONFIG_AND_TOKENIZER --load-format seatrial
    --model-loader-extra-config '{"tensors": "FOLDER_OR_URI", "tensors_manifest_sha256": "..."}'

vLLM's base class creates the model, calls `load_weights` below and then its post-processing, so every layout that vLLM can make
from safetensors it makes from these. Weights that cannot be vouched for end the engine with one line in its log:
`seatrial: weights refused: WHAT; HINT`, which the platform shows to the submitter.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.logger import init_logger
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.platforms import current_platform

from seatrial_engine.endings import report_endings_of_children
from seatrial_engine.errors import WeightsRefused
from seatrial_engine.kernels import report_attention_kernel, restrict_cpu
from seatrial_engine.manifest import TensorsManifest, header_only_safetensors
from seatrial_engine.parent_death import end_if_spawned_with_parent
from seatrial_engine.weights import open_manifest, open_tensors, read_weights

LOAD_FORMAT = "seatrial"
_PREFIX = "seatrial: weights refused"
_UNREADABLE = "seatrial: weights not readable"
_FIT_THE_CONFIG = "upload weights that fit the model's config.json"
logger = init_logger("vllm.seatrial")  # below vLLM's logger, so that its handler and level apply


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """What `--model-loader-extra-config` gives: where the weights lie, and the hash of their tensors.json."""

    tensors: str
    tensors_manifest_sha256: str

    @classmethod
    def from_extra_config(cls, extra: Mapping[str, object]) -> "LoaderSettings":
        """Read the two values; anything else is a mistake of the caller. Raises ValueError."""
        wanted = {"tensors", "tensors_manifest_sha256"}
        if set(extra) != wanted or not all(isinstance(value, str) for value in extra.values()):
            message = f"load format {LOAD_FORMAT} takes the strings {sorted(wanted)} as its extra config, not {sorted(extra)}"
            raise ValueError(message)
        return cls(str(extra["tensors"]), str(extra["tensors_manifest_sha256"]))


class SeatrialModelLoader(BaseModelLoader):
    """Loads what `seatrial_engine.tensorize` wrote."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._settings = LoaderSettings.from_extra_config(load_config.model_loader_extra_config)

    def download_model(self, model_config: ModelConfig) -> None:
        """Nothing: weights are read where they lie."""

    def create_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """Create the model that vLLM would create from the safetensors themselves."""
        with _refusals_logged():
            manifest = open_manifest(open_tensors(self._settings.tensors), self._settings.tensors_manifest_sha256)
        _decide_with_headers(vllm_config, model_config, manifest)
        return super().create_model(vllm_config, model_config, prefix)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Feed the verified tensors to the model. Ends the process, with one line in the log, when they are refused."""
        started = time.perf_counter()
        with _refusals_logged():
            self._feed(model, quantized=model_config.quantization is not None)
        logger.info("seatrial: weights loaded in %.2f s", time.perf_counter() - started)

    def _feed(self, model: nn.Module, *, quantized: bool) -> None:
        source = open_tensors(self._settings.tensors)
        manifest = open_manifest(source, self._settings.tensors_manifest_sha256)
        offered = _Counted(read_weights(source, manifest))
        try:
            loaded = model.load_weights(offered)
        except (ValueError, KeyError, AssertionError) as error:  # how vLLM's models refuse a name or a shape that they do not know
            what = f"the model does not take the weights: {type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
            raise WeightsRefused(what, _FIT_THE_CONFIG) from error
        if offered.count != len(manifest.tensors):
            what = f"the model took {offered.count} of {len(manifest.tensors)} tensors"
            raise WeightsRefused(what, _FIT_THE_CONFIG)
        if loaded is not None and not quantized:  # else the model does not say what it loaded, or under names of its own
            _refuse_missing(model, loaded)


@contextmanager
def _refusals_logged() -> Iterator[None]:
    try:
        yield
    except WeightsRefused as refusal:
        logger.error("%s: %s; %s", _PREFIX, refusal.what, refusal.hint)  # noqa: TRY400 - one line is the contract
        raise
    except OSError as error:
        logger.error("%s: %s", _UNREADABLE, error)  # noqa: TRY400 - as above
        raise


def _decide_with_headers(vllm_config: VllmConfig, model_config: ModelConfig, manifest: TensorsManifest) -> None:
    """Repeat the two decisions that vLLM takes from the headers of the safetensors in the model's folder.

    The engine's folder holds no safetensors, so vLLM took both blindly: whether an lm_head contradicts `tie_word_embeddings`, and
    which layers of an AWQ or GPTQ checkpoint are not quantised. Wrong answers, silently, would follow.
    """
    folder_of_engine = model_config.model
    with tempfile.TemporaryDirectory(prefix="seatrial-headers-") as folder:
        header_only_safetensors(Path(folder) / "model.safetensors", manifest)
        if vllm_config.quant_config is not None:
            vllm_config.quant_config.maybe_update_config(folder, hf_config=model_config.hf_config)
        model_config.model = folder
        try:
            model_config.maybe_untie_word_embeddings()
        finally:
            model_config.model = folder_of_engine


class _Counted:
    """An iterator of weights that counts what was taken from it."""

    def __init__(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._weights = weights
        self.count = 0

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for item in self._weights:
            self.count += 1
            yield item


def _refuse_missing(model: nn.Module, loaded: set[str]) -> None:
    """Refuse weights that leave parameters as they were created."""
    missing = sorted({name for name, _parameter in model.named_parameters()} - loaded)
    if missing:
        what = f"{len(missing)} of the model's parameters are not in the weights, first {missing[0]}"
        raise WeightsRefused(what, _FIT_THE_CONFIG)


def register() -> None:
    """Make the load format known, restrict a CPU's kernels and tie spawned processes to their server.

    vLLM calls this in each of its processes.
    """
    end_if_spawned_with_parent()
    report_endings_of_children()
    if current_platform.is_cpu():
        restrict_cpu()
        report_attention_kernel()
    register_model_loader(LOAD_FORMAT)(SeatrialModelLoader)
