"""The safetensors files are whole and sound, and the index says what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from core.versions import Finding
from evals.checks.evidence import Evidence, Unreadable
from evals.checks.names import INDEX
from evals.checks.report import NotCheckable, fail, first_of


def sound_headers(evidence: Evidence) -> Iterator[Finding]:
    """Check every header's bounds and every file's length against its header."""
    if not evidence.shards:
        yield fail("no_safetensors", f"{evidence.model}: there is no safetensors file", "add the weights as *.safetensors and submit again")
    for shard in evidence.shards:
        if shard.cut:
            yield fail(
                "truncated_weights",
                f"{evidence.model}: {shard.path} ({shard.size} bytes) is cut off: {shard.fault}",
                "upload the whole file and submit again",
            )
        elif shard.fault:
            yield fail(
                "bad_header",
                f"{evidence.model}: {shard.path} is no sound safetensors file: {shard.fault}",
                "save the weights anew with the safetensors library and submit again",
            )


def index_equals_tensors(evidence: Evidence) -> Iterator[Finding]:
    """Hold the index against the files: every name there once, in the file that the index says, and nothing else."""
    try:
        index = evidence.load(INDEX)
    except Unreadable as error:
        yield _mismatch(evidence, str(error))
        return
    if any(shard.header is None for shard in evidence.shards):
        raise NotCheckable
    held = [(tensor.name, shard.path) for shard in evidence.shards if shard.header for tensor in shard.header.tensors]
    twice = sorted(name for name, times in Counter(name for name, _path in held).items() if times > 1)
    if twice:
        yield _mismatch(evidence, f"{len(twice)} tensors stand in more than one file, first {twice[0][:80]}")
    elif index is not None:
        yield from _differences(evidence, index, dict(held))
    elif len(evidence.shards) > 1:
        yield _mismatch(evidence, f"{len(evidence.shards)} safetensors files and no {INDEX}")


def _differences(evidence: Evidence, index: Mapping[str, Any], held: dict[str, str]) -> Iterator[Finding]:
    said = index.get("weight_map")
    if not isinstance(said, dict):
        yield _mismatch(evidence, f"{INDEX} has no weight_map")
        return
    missing = sorted(set(said) - set(held))
    unnamed = sorted(set(held) - set(said))
    moved = sorted(name for name in set(held) & set(said) if held[name] != said[name])
    if missing:
        yield _mismatch(evidence, f"the index names {len(missing)} tensors that no file holds: {first_of(missing)}")
    if unnamed:
        yield _mismatch(evidence, f"the index leaves out {len(unnamed)} tensors: {first_of(unnamed)}")
    if moved:
        yield _mismatch(evidence, f"the index puts {len(moved)} tensors in another file than holds them: {first_of(moved)}")


def _mismatch(evidence: Evidence, reason: str) -> Finding:
    return fail("index_mismatch", f"{evidence.model}: {reason}", "save the model anew (save_pretrained writes the index) and submit again")
