"""`python -m seatrial_engine.fetch URI FOLDER`: brings a version's small files (config, tokenizer, template) into a folder.

Weights are not fetched: the loader reads them where they lie. Each file's hash must be the one of the bundle's manifest.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from seatrial_engine.errors import EXIT_ENVIRONMENT, EXIT_REFUSED, WeightsRefused
from seatrial_engine.store import S3Prefix

_MANIFESTS: Final = ("manifest.json", "manifest.staged.json", "manifest.json")  # it may be published between two looks
_MOST_BYTES: Final = 512 << 20
_AGAIN: Final = "submit the model again"


def fetch(uri: str, folder: Path) -> int:
    """Fetch every file that the manifest names, and return how many. Raises WeightsRefused, and OSError for what the store does."""
    store = S3Prefix(uri)
    files = _files(store, uri)
    if sum(int(file["size"]) for file in files) > _MOST_BYTES:
        raise WeightsRefused(f"{uri}: its small files are larger than {_MOST_BYTES >> 20} MiB", _AGAIN)
    for file in files:
        path = _inside(str(file["path"]))
        content = store.read(str(path))
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise WeightsRefused(f"{path}: its SHA-256 differs from the one in the bundle's manifest", _AGAIN)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return len(files)


def _files(store: S3Prefix, uri: str) -> list[Mapping[str, Any]]:
    for name in _MANIFESTS:
        try:
            document = json.loads(store.read(name))
            return [file for file in document["files"] if not str(file["path"]).endswith(".safetensors")]
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsRefused(f"{uri}/{name}: malformed", _AGAIN) from error
    raise WeightsRefused(f"{uri}: there is no manifest", _AGAIN)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise WeightsRefused(f"{name!r} leaves its folder", _AGAIN)
    return path


def main(argv: Sequence[str]) -> int:
    """Fetch, and say in one line why not."""
    uri, folder = argv
    try:
        count = fetch(uri, Path(folder))
    except WeightsRefused as refusal:
        sys.stderr.write(f"seatrial: weights refused: {refusal.what}; {refusal.hint}\n")
        return EXIT_REFUSED
    except OSError as error:
        sys.stderr.write(f"seatrial: weights not readable: {error}\n")
        return EXIT_ENVIRONMENT
    sys.stdout.write(f"seatrial: {count} files of {uri}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
