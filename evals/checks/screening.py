"""What is looked at before anything is downloaded: the listing alone."""

from __future__ import annotations

from core.errors import Refused
from core.settings import ModelPolicy
from core.versions import HubFile, ResolvedModel
from evals.checks.names import ADAPTER, CONFIG, INDEX, TOKENIZER, is_pickle, is_wanted, is_weights
from evals.text import storable

_SMALL_BYTES = 128 * 1024**2  # no tokenizer or configuration is larger; more is no reading matter
_IN_ALL_REPOSITORIES = {".gitattributes", ".gitignore", "README.md"}


def screen(model: ResolvedModel, policy: ModelPolicy) -> tuple[HubFile, ...]:
    """Return the files that are needed, sorted by path; every other file is left where it is (never code, never pickle).

    Raises Refused: `empty_repository`, `pickle_only`, `adapter_only`, `gguf_only`,
    `no_safetensors`, `no_config`, `no_tokenizer`, `too_large`.
    """
    needed = _needed(model.files)
    _refuse_without_weights(model, needed)
    paths = {file.path for file in needed}
    if CONFIG not in paths:
        raise Refused(f"{model}: there is no config.json", reason="no_config", hint="add the transformers config.json and submit again")
    if TOKENIZER not in paths:
        raise Refused(
            f"{model}: there is no tokenizer.json",
            reason="no_tokenizer",
            hint="save the fast tokenizer beside the weights (AutoTokenizer.from_pretrained(...).save_pretrained(...)) and submit again",
        )
    _refuse_large(model, needed, policy.max_bytes)
    return needed


def _needed(files: tuple[HubFile, ...]) -> tuple[HubFile, ...]:
    wanted = [file for file in files if is_wanted(file.path) and not file.path.startswith("adapter_")]
    weights = {file.path for file in wanted if is_weights(file.path)}
    extra = {path for path in weights if path.startswith("consolidated")}  # a second copy of the same weights in another layout
    if INDEX in {file.path for file in wanted}:
        extra |= weights & {"model.safetensors"}  # an index speaks of shards: a whole copy beside them would be loaded twice
        extra = extra if weights - extra else set()
    elif not weights - extra:
        extra = set()
    return tuple(sorted((file for file in wanted if file.path not in extra), key=lambda file: file.path))


def _refuse_without_weights(model: ResolvedModel, needed: tuple[HubFile, ...]) -> None:
    if not any(file.path not in _IN_ALL_REPOSITORIES for file in model.files):
        raise Refused(f"{model}: the repository is empty", reason="empty_repository", hint="upload the model and submit again")
    if any(is_weights(file.path) for file in needed):
        return
    pickles = [file.path for file in model.files if is_pickle(file.path)]
    if pickles:
        raise Refused(
            f"{model}: weights only as pickle, which can hold code: {len(pickles)} files, first {storable(pickles[0][:100])}",
            reason="pickle_only",
            hint="convert them to safetensors (save_pretrained writes it) and submit again",
        )
    _refuse_other_kinds(model)
    raise Refused(
        f"{model}: none of its {len(model.files)} files is a model's safetensors at the top of the repository",
        reason="no_safetensors",
        hint="upload the whole model's weights as *.safetensors and submit again",
    )


def _refuse_other_kinds(model: ResolvedModel) -> None:
    paths = {file.path for file in model.files}
    if ADAPTER in paths or any(path.startswith("adapter_") and is_weights(path) for path in paths):
        raise Refused(
            f"{model}: the repository holds an adapter (LoRA) without its base model",
            reason="adapter_only",
            hint="merge the adapter into its base model (merge_and_unload of peft), save the result and submit it",
        )
    gguf = sorted(path for path in paths if path.lower().endswith(".gguf"))
    if gguf:
        raise Refused(
            f"{model}: the weights are GGUF only ({len(gguf)} files, first {storable(gguf[0][:100])}), which the engines do not load",
            reason="gguf_only",
            hint="submit the repository of safetensors that the GGUF files were made from",
        )


def _refuse_large(model: ResolvedModel, needed: tuple[HubFile, ...], max_bytes: int) -> None:
    total = sum(file.size for file in needed)
    if total > max_bytes:
        raise Refused(
            f"{model}: {total} bytes to download, above the limit of {max_bytes}",
            reason="too_large",
            hint="submit a smaller or quantised model, or ask an operator to raise SEATRIAL_MODELS_MAX_BYTES",
        )
    big = next((file for file in needed if not is_weights(file.path) and file.size > _SMALL_BYTES), None)
    if big is not None:
        raise Refused(
            f"{model}: {big.path} has {big.size} bytes, above the limit of {_SMALL_BYTES} for a file that is not weights",
            reason="too_large",
            hint="submit a model whose tokenizer and configuration are of ordinary size",
        )
