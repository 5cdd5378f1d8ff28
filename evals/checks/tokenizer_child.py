"""Encodes and decodes texts with a tokenizer.json. Runs as a child of `confined`. In: {"path", "texts"}. Out: [[ids, decoded], ...]."""

from __future__ import annotations

import json
import resource
import sys
from types import TracebackType


def main() -> None:
    """Answer one question from stdin on stdout."""
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu_s"], asked["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory_bytes"], asked["memory_bytes"]))
    from tokenizers import Tokenizer  # noqa: PLC0415 - below the limits

    sys.excepthook = _tell  # the library raises plain Exception, and panics: whatever ends us from here on is the tokenizer's doing
    tokenizer = Tokenizer.from_file(asked["path"])
    trips = []
    for text in asked["texts"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        trips.append([len(ids), tokenizer.decode(ids, skip_special_tokens=False)])
    json.dump({"end": "done", "value": trips}, sys.stdout)


def _tell(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    end = "too_much_memory" if issubclass(kind, MemoryError) else "broken"
    json.dump({"end": end, "why": str(error)[:200]}, sys.stdout)


if __name__ == "__main__":
    main()
