"""The safetensors files are whole and sound, and the index says what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.reasons import Reason
from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.names import INDEX
from evals.checks.reading import Unreadable, shown
from evals.checks.report import NotCheckable, counted, fail, first_of

_SAVE_HINT = "Save the model again (save_pretrained writes the index) and submit again"
_UPLOAD_HINT = "Upload every file that the index names and submit again"


def sound_headers(files: ModelFiles) -> Iterator[Finding]:
    """Check every header's bounds and every file's length against its header."""
    if not files.shards:
        yield fail(Reason.NO_SAFETENSORS, f"{files.model}: it has no safetensors file", "Add the weights as *.safetensors and submit again")
    if files.shards and all(shard.header is not None and shard.header.data_bytes == 0 for shard in files.shards):
        hint = "Upload the weights themselves and submit again"
        yield fail(Reason.BAD_HEADER, f"{files.model}: {files.shards[0].path} holds no numbers: every tensor is empty", hint)
    for shard in files.shards:
        if shard.path in files.stand_ins:
            continue
        if shard.cut:
            yield fail(
                Reason.TRUNCATED_WEIGHTS,
                f"{files.model}: {shard.path} ({shard.size} bytes) is cut off: {shard.fault}",
                "Upload the whole file and submit again",
            )
        elif shard.fault:
            yield fail(
                Reason.BAD_HEADER,
                f"{files.model}: {shard.path} is not a valid safetensors file: {shard.fault}",
                "Save the weights again with the safetensors library and submit again",
            )


def index_equals_tensors(files: ModelFiles) -> Iterator[Finding]:
    """Hold the index against the files: every name there once, in the file that the index states, and nothing else."""
    if INDEX in files.stand_ins:
        raise NotCheckable
    try:
        index = files.load(INDEX)
    except Unreadable as error:
        yield _mismatch(files, str(error))
        return
    if any(shard.header is None for shard in files.shards):
        raise NotCheckable
    paths_of = _files_of_tensors(files)
    twice = sorted(name for name, paths in paths_of.items() if len(paths) > 1)
    if twice:
        yield _duplicates(files, twice, paths_of)
    elif index is not None:
        yield from _differences(files, index, {name: paths[0] for name, paths in paths_of.items()})
    elif len(files.shards) > 1:
        paths = [shard.path for shard in files.shards]
        yield _mismatch(files, f"{len(paths)} safetensors files ({first_of(paths)}) and no {INDEX}")


def _files_of_tensors(files: ModelFiles) -> dict[str, list[str]]:
    paths_of: dict[str, list[str]] = {}
    for shard in files.shards:
        for tensor in shard.header.tensors if shard.header else ():
            paths_of.setdefault(tensor.name, []).append(shard.path)
    return paths_of


def _duplicates(files: ModelFiles, twice: list[str], paths_of: Mapping[str, list[str]]) -> Finding:
    paths = sorted({path for name in twice for path in paths_of[name]})
    return fail(
        Reason.DUPLICATE_WEIGHTS,
        f"{files.model}: found {counted(len(twice), 'tensor')} in more than one of the files {first_of(paths)}, first {twice[0][:80]}",
        "Keep one set of weights, delete the copies, and submit again",
    )


def _differences(files: ModelFiles, index: Mapping[str, Any], held: dict[str, str]) -> Iterator[Finding]:
    stated = index.get("weight_map")
    if not isinstance(stated, dict):
        yield _mismatch(files, f"`weight_map` in {INDEX} must be an object, got {shown(stated)}")
        return
    present = {shard.path for shard in files.shards}
    absent = sorted({path if isinstance(path, str) else shown(path) for path in stated.values()} - present)
    if absent:
        yield _mismatch(files, f"{INDEX} names {counted(len(absent), 'file')} that cannot be found: {first_of(absent)}", _UPLOAD_HINT)
        return
    unnamed_files = sorted(present - {path for path in stated.values() if isinstance(path, str)})
    if unnamed_files:
        yield _mismatch(files, f"{INDEX} does not name {len(unnamed_files)} of the weight files: {first_of(unnamed_files)}")
        return
    missing = sorted(set(stated) - set(held))
    unnamed = sorted(set(held) - set(stated))
    moved = sorted(name for name in set(held) & set(stated) if held[name] != stated[name])
    if missing:
        yield _mismatch(files, f"{INDEX} names {counted(len(missing), 'tensor')} that no file holds: {first_of(missing)}")
    if unnamed:
        yield _mismatch(files, f"{INDEX} leaves out {counted(len(unnamed), 'tensor')}: {first_of(unnamed)}")
    if moved:
        yield _mismatch(files, f"{INDEX} names the wrong file for {counted(len(moved), 'tensor')}: {first_of(moved)}")


def _mismatch(files: ModelFiles, reason: str, hint: str = _SAVE_HINT) -> Finding:
    return fail(Reason.INDEX_MISMATCH, f"{files.model}: {reason}", hint)
