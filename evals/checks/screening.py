"""What is looked at before anything is downloaded: the listing alone."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import Refused
from core.reasons import Reason
from core.settings import ModelPolicy
from core.versions import HubFile, ResolvedModel
from evals.checks.names import CONFIG, INDEX, TOKENIZER, is_pickle, is_wanted, is_weights, misnamed_weights, shard_number
from evals.text import storable

_SMALL_BYTES = 128 * 1024**2  # the largest tokenizers and configurations are smaller
_IN_ALL_REPOSITORIES = {".gitattributes", ".gitignore", "README.md"}


def screen(model: ResolvedModel, policy: ModelPolicy) -> tuple[HubFile, ...]:
    """Return the files that are needed, sorted by path; every other file is left where it is (never code, never pickle).

    Raises Refused: `empty_repository`, `pickle_only`, `adapter_only`, `gguf_only`, `no_safetensors`, `index_mismatch`, `no_config`,
    `no_tokenizer`, `too_large`.
    """
    needed = _needed(model.files)
    _refuse_without_weights(model, needed)
    _refuse_missing_shards(model, needed)
    paths = {file.path for file in needed}
    if CONFIG not in paths:
        raise Refused(f"{model}: config.json is missing", reason=Reason.NO_CONFIG, hint="Add the transformers config.json and submit again")
    if TOKENIZER not in paths:
        raise Refused(
            f"{model}: tokenizer.json is missing",
            reason=Reason.NO_TOKENIZER,
            hint="Save the fast tokenizer beside the weights (AutoTokenizer.from_pretrained(...).save_pretrained(...)) and submit again",
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
        raise Refused(f"{model}: the repository is empty", reason=Reason.EMPTY_REPOSITORY, hint="Upload the model and submit again")
    if any(is_weights(file.path) and not file.path.startswith("adapter_") for file in needed):
        return
    misnamed = _paths(model, misnamed_weights)
    if misnamed:
        raise Refused(
            f"{model}: {_first(misnamed)} is not an accepted weights file name (letters, digits, `_`, `-`, `.`, then `.safetensors`)",
            reason=Reason.NO_SAFETENSORS,
            hint="Rename it to model.safetensors (or model-00001-of-0000N.safetensors with its index) and submit again",
        )
    adapters = _paths(model, lambda path: path.startswith("adapter_"))
    if adapters:
        raise Refused(
            f"{model}: {_first(adapters)} is an adapter, and there are no weights of a whole model",
            reason=Reason.ADAPTER_ONLY,
            hint="Merge the adapter into its base model (merge_and_unload), save the result and submit it",
        )
    pickles = _paths(model, is_pickle)
    if pickles:
        raise Refused(
            f"{model}: its weights are only pickles, which can hold code: {_first(pickles)}",
            reason=Reason.PICKLE_ONLY,
            hint="Convert them to safetensors (save_pretrained writes it) and submit again",
        )
    gguf = _paths(model, lambda path: path.lower().endswith(".gguf"))
    if gguf:
        raise Refused(
            f"{model}: its weights are only GGUF, which is not accepted: {_first(gguf)}",
            reason=Reason.GGUF_ONLY,
            hint="Submit the model from which the GGUF was made, as safetensors",
        )
    nested = _paths(model, lambda path: path.endswith(".safetensors"))
    raise Refused(
        f"{model}: its safetensors are not at the top of the repository: {_first(nested)}"
        if nested
        else f"{model}: none of its {len(model.files)} files is a safetensors file",
        reason=Reason.NO_SAFETENSORS,
        hint="Upload the whole model's weights as *.safetensors at the top of the repository and submit again",
    )


def _refuse_missing_shards(model: ResolvedModel, needed: tuple[HubFile, ...]) -> None:
    present = [found for file in needed if (found := shard_number(file.path))]
    counts = {(stem, count) for stem, _number, count in present}
    for stem, count in sorted(counts):
        numbers = {number for of, number, total in present if (of, total) == (stem, count)}
        missing = count - len(numbers)
        if missing > 0:
            first = next(number for number in range(1, count + 2) if number not in numbers)
            name = f"{storable(stem[:80])}-{first:05d}-of-{count:05d}.safetensors"
            raise Refused(
                f"{model}: {missing} of {count} weight files are missing, first {name}",
                reason=Reason.INDEX_MISMATCH,
                hint="Upload every shard and submit again",
            )


def _paths(model: ResolvedModel, kind: Callable[[str], bool]) -> list[str]:
    return [file.path for file in model.files if kind(file.path)]


def _first(paths: list[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"'{storable(paths[0][:100])}'{more}"


def _refuse_large(model: ResolvedModel, needed: tuple[HubFile, ...], max_bytes: int) -> None:
    total = sum(file.size for file in needed)
    if total > max_bytes:
        raise Refused(
            f"{model}: {total} bytes to download, above the limit of {max_bytes}",
            reason=Reason.TOO_LARGE,
            hint="Submit a smaller or quantised model, or ask an operator to raise SEATRIAL_MODELS_MAX_BYTES",
        )
    big = next((file for file in needed if not is_weights(file.path) and file.size > _SMALL_BYTES), None)
    if big is not None:
        raise Refused(
            f"{model}: {big.path} has {big.size} bytes, above the limit of {_SMALL_BYTES} for a file that is not weights",
            reason=Reason.TOO_LARGE,
            hint="Submit a model whose tokenizer and configuration files are below the limit",
        )
