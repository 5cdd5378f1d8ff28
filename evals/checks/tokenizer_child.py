"""Load a tokenizer.json with its added tokens, encode and decode texts. Runs as a child of `confined`.

In: {"path", "texts", "added"}. Out: {"trips": [[ids, decoded], ...], "top": [id, token], "framed": id}: the token with the largest id, and
the largest id of the encoded texts, including the special tokens that the post-processor adds.
"""

from __future__ import annotations

import json
import resource
import sys
from types import TracebackType


def main() -> None:
    """Answer one question from stdin on stdout."""
    cpu_s, memory_bytes = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    sys.excepthook = _tell
    asked = json.load(sys.stdin)
    try:
        from tokenizers import AddedToken, Tokenizer  # noqa: PLC0415 - below the limits
    except ImportError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # no answer: the tokenizer is not at fault

    tokenizer = Tokenizer.from_file(asked["path"])
    tokenizer.no_padding()  # a training run may have saved both settings; transformers sets them for each call
    tokenizer.no_truncation()
    trips = []
    for text in asked["texts"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        trips.append([len(ids), tokenizer.decode(ids, skip_special_tokens=False)])
    missing = [token for token in asked["added"] if token and tokenizer.token_to_id(token) is None]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    top = max(vocabulary, key=vocabulary.__getitem__) if vocabulary else ""
    framed = max((number for text in asked["texts"] for number in tokenizer.encode(text).ids), default=-1)
    json.dump({"end": "done", "value": {"trips": trips, "top": [vocabulary.get(top, -1), top[:80]], "framed": framed}}, sys.stdout)


def _tell(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Answer for a tokenizer that raises: the library raises plain Exception, and panics."""
    end = "too_much_memory" if issubclass(kind, MemoryError) else "broken"
    json.dump({"end": end, "why": str(error)[:200]}, sys.stdout)


if __name__ == "__main__":
    main()
