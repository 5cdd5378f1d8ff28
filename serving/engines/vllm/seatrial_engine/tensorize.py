"""`python -m seatrial_engine.tensorize SOURCE_DIR OUT_DIR`: safetensors in, tensorizer files and their manifest out.

Streams tensor by tensor, so memory is bounded by the largest tensor. Several files are written when one would pass
`--shard-bytes`, or tensorizer's fixed room of 256 KiB for metadata. The same input gives the same bytes. The manifest is written
last; killed before that, the folder holds no manifest, and the next run starts over.

Standard output gets one JSON line at the end (`{"event": "done", ...}`), with `--json-progress` also some on the way. A failure is
one JSON line on standard error: exit 3 when the source is at fault (`"error": "refused"`), exit 4 when the machine is
(`"transient"` or `"fault"`).
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from tensorizer import TensorSerializer
from tensorizer.serialization import TensorType

from seatrial_engine.errors import EXIT_ENVIRONMENT, EXIT_REFUSED, DiskFull, WeightsRefused, environment_line, refusal_line
from seatrial_engine.manifest import (
    MANIFEST_NAME,
    TensorRecord,
    TensorsFile,
    TensorsManifest,
    sha256_of,
    sync_folder,
    write_atomically,
)
from seatrial_engine.source import SourceTensor, read_source

DEFAULT_SHARD_BYTES: Final = 5_000_000_000
_METADATA_BYTES: Final = 256 * 1024
_ENTRY_BYTES: Final = 64  # of a tensor's metadata, beside its name and shape: lengths, offsets, type names; 38 measured at most
_DIMENSION_BYTES: Final = 8
_FILE_BYTES: Final = _METADATA_BYTES + 4096
_PROGRESS_INTERVAL_S: Final = 0.5

Report = Callable[[int, int], None]  # tensors done, bytes done


@dataclass(frozen=True, slots=True)
class Totals:
    """How much there is to do."""

    tensors: int
    nbytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m seatrial_engine.tensorize", description="Tensorize a folder of safetensors.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shard-bytes", type=int, default=DEFAULT_SHARD_BYTES)
    parser.add_argument("--json-progress", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        manifest = tensorize(arguments.source, arguments.out, arguments.shard_bytes, progress=arguments.json_progress)
    except WeightsRefused as error:
        sys.stderr.write(refusal_line(error) + "\n")
        return EXIT_REFUSED
    except (OSError, MemoryError, DiskFull) as error:
        sys.stderr.write(environment_line(error) + "\n")
        return EXIT_ENVIRONMENT
    _say(
        event="done",
        files=len(manifest.files),
        tensors=len(manifest.tensors),
        bytes=manifest.total_bytes,
        manifest_sha256=hashlib.sha256(manifest.to_json()).hexdigest(),
    )
    return 0


def tensorize(source: Path, out: Path, shard_bytes: int = DEFAULT_SHARD_BYTES, *, progress: bool = False) -> TensorsManifest:
    """Write `source` as tensorizer files into `out`, and tensors.json last.

    Whatever an earlier run left in `out` is removed first. Raises WeightsRefused, DiskFull or OSError; `out` then has no manifest.
    """
    tensors = read_source(source)
    totals = Totals(len(tensors), sum(tensor.nbytes for tensor in tensors))
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    plan = plan_files(tensors, shard_bytes)
    _refuse_full_disk(out, totals.nbytes + len(plan) * _FILE_BYTES + totals.tensors * 512)
    report = _reporter(totals) if progress else _silent
    files, records = [], []
    done = Totals(0, 0)
    for number, part in enumerate(plan, start=1):
        name = f"model-{number:05d}.tensors"
        files.append(_write_file(out / name, part, done, report))
        records += [TensorRecord(tensor.name, tensor.dtype, tensor.shape, name) for tensor in part]
        done = Totals(done.tensors + len(part), done.nbytes + sum(tensor.nbytes for tensor in part))
    sync_folder(out)
    manifest = TensorsManifest(tuple(files), tuple(records), totals.nbytes)
    write_atomically(out / MANIFEST_NAME, manifest.to_json())
    return manifest


def plan_files(tensors: Iterable[SourceTensor], shard_bytes: int) -> tuple[tuple[SourceTensor, ...], ...]:
    """Cut the tensors into files, in their order: each within `shard_bytes` (or one tensor) and tensorizer's metadata room."""
    plan: list[list[SourceTensor]] = [[]]
    nbytes = metadata = 0
    for tensor in tensors:
        entry = metadata_bytes(tensor)
        if plan[-1] and (nbytes + tensor.nbytes > shard_bytes or metadata + entry > _METADATA_BYTES):
            plan.append([])
            nbytes = metadata = 0
        plan[-1].append(tensor)
        nbytes += tensor.nbytes
        metadata += entry
    return tuple(tuple(part) for part in plan)


def metadata_bytes(tensor: SourceTensor) -> int:
    """Bound the room that one tensor takes in a tensorizer file's metadata, from above."""
    return len(tensor.name.encode()) + len(tensor.shape) * _DIMENSION_BYTES + _ENTRY_BYTES


def _clear(out: Path) -> None:
    """Remove an earlier run's files: the manifest first, so that the folder never looks finished while it is not."""
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for left in itertools.chain(out.glob("model-*.tensors"), out.glob(f".{MANIFEST_NAME}.*")):
        left.unlink()


def _refuse_full_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DiskFull(f"{out}: {needed} bytes are needed, {free} are free")


def _write_file(path: Path, tensors: Sequence[SourceTensor], before: Totals, report: Report) -> TensorsFile:
    serializer = TensorSerializer(path)
    tensors_done, bytes_done = before.tensors, before.nbytes
    for index, (tensor, value) in enumerate(_values(tensors)):
        # tensorizer keeps the index in 16 bits and does not need it to be unique
        serializer.write_tensor(index % 65536, tensor.name, TensorType.STATE_DICT, value)
        tensors_done, bytes_done = tensors_done + 1, bytes_done + tensor.nbytes
        report(tensors_done, bytes_done)
    serializer.close()
    with path.open("rb") as stream:
        digest = sha256_of(stream)
        os.fsync(stream.fileno())
    return TensorsFile(path.name, path.stat().st_size, digest, len(tensors))


def _values(tensors: Sequence[SourceTensor]) -> Iterator[tuple[SourceTensor, "object"]]:
    """Yield each tensor with its value; one value is held at a time, and each source file is opened once per output file."""
    for file, group in itertools.groupby(tensors, key=lambda tensor: tensor.file):
        try:
            with safe_open(file, framework="pt") as opened:
                for tensor in group:
                    yield tensor, opened.get_tensor(tensor.name)
        except SafetensorError as error:
            raise WeightsRefused(f"{file.name}: {error}", "upload the file again") from error


def _silent(_tensors: int, _nbytes: int) -> None:
    return


def _reporter(totals: Totals) -> Report:
    last = time.monotonic()

    def report(tensors: int, nbytes: int) -> None:
        nonlocal last
        now = time.monotonic()
        if tensors < totals.tensors and now - last < _PROGRESS_INTERVAL_S:
            return
        last = now
        _say(event="progress", tensors=tensors, tensors_total=totals.tensors, bytes=nbytes, bytes_total=totals.nbytes)

    return report


def _say(**document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
