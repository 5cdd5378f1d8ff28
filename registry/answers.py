"""The answers of benchmarks, sample by sample: packed when a benchmark has ended, read from this machine or from its history."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from core.benchmarks import Benchmark, Sample
from core.errors import Fault, NotFound, Refused
from core.ids import BenchmarkId
from core.ports.history import BenchmarkHistory
from core.reasons import Reason
from registry.codec import plain, restore

PACKED = "rows.jsonl.gz"
MOST_ROWS = 200_000
"""More are not read into memory at once (some 400 MB)."""
_LONGEST_LINE = 4 * 1024**2


class Answers:
    """Rows of benchmarks below one folder: `<id>.jsonl` while it runs, `<id>.rows.jsonl.gz` afterwards."""

    def __init__(self, folder: Path, history: BenchmarkHistory) -> None:
        self._folder = folder
        self._history = history

    def growing(self, benchmark: BenchmarkId) -> Path:
        """Return the file that the run appends to, and resumes from."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder / f"{benchmark}.jsonl"

    def packed(self, benchmark: BenchmarkId) -> Path:
        """Return where the packed rows lie on this machine (they may not)."""
        return self._folder / f"{benchmark}.rows.jsonl.gz"

    def results(self, benchmark: BenchmarkId) -> Path:
        """Return where the harness may have left its own results document."""
        return self._folder / f"{benchmark}.results.json"

    def pack(self, benchmark: BenchmarkId, samples: Iterable[Sample]) -> Path:
        """Write all samples, whole or not at all, and return the file. The same samples make the same bytes."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.packed(benchmark)
        draft = path.with_suffix(".draft")
        with draft.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="", compresslevel=6) as file:
            for sample in samples:
                file.write(json.dumps(plain(sample), separators=(",", ":")).encode() + b"\n")
        draft.replace(path)
        return path

    def forget_growing(self, benchmark: BenchmarkId) -> None:
        """Remove what the run appended to: the packed rows hold it all. Removing what is gone does nothing."""
        self.growing(benchmark).unlink(missing_ok=True)

    def files(self) -> dict[BenchmarkId, tuple[Path, ...]]:
        """Return the files that lie on this machine, by benchmark."""
        found: dict[BenchmarkId, tuple[Path, ...]] = {}
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            benchmark = BenchmarkId(path.name.partition(".")[0])
            found[benchmark] = (*found.get(benchmark, ()), path)
        return found

    def forget(self, benchmark: BenchmarkId) -> bool:
        """Remove everything of a benchmark from this machine; return whether there was anything."""
        paths = self.files().get(benchmark, ())
        for path in paths:
            path.unlink(missing_ok=True)
        return bool(paths)

    def read(self, benchmark: Benchmark) -> tuple[Sample, ...]:
        """Return the samples of an ended benchmark. NotFound while it has none; Transient while its history is unavailable."""
        here = self.packed(benchmark.id)
        if here.is_file():
            return tuple(_samples(here))
        if not benchmark.rows_uri:
            raise NotFound(
                f"benchmark {benchmark.id} has no answers ({benchmark.state})",
                reason=Reason.NO_ANSWERS,
                hint="wait until it is done, or run it again",
            )
        with TemporaryDirectory(prefix="seatrial-answers-") as folder:
            fetched = Path(folder) / PACKED
            self._history.fetch(benchmark.rows_uri, fetched)
            return tuple(_samples(fetched))


def _samples(path: Path) -> Iterator[Sample]:
    try:
        with gzip.open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b"")):
                if number == MOST_ROWS:
                    raise Refused(
                        f"{path.name} has more than {MOST_ROWS} answers", reason=Reason.TOO_MANY_ANSWERS, hint="read the artifact in MLflow"
                    )
                yield restore(Sample, json.loads(line))
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, TypeError, KeyError) as error:
        raise Fault(f"the answers in {path} cannot be read: {error}", hint="run the benchmark again") from error
