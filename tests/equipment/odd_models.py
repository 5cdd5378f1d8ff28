"""Folders of models with one fault or oddity each, built from the trained model `steady`: for the checks, never served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEADY = Path(__file__).parent / "models" / "steady"
TEMPLATE: str = json.loads((STEADY / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
BOM = b"\xef\xbb\xbf"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 855360\n"
PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|end|>{% endfor %}"
)
Change = Callable[[Path], object]


def steady_model(folder: Path, *changes: Change) -> Path:
    """Copy `steady` and apply the changes in their order."""
    shutil.copytree(STEADY, folder)
    for change in changes:
        change(folder)
    return folder


def fields(name: str, **values: Any) -> Change:
    """Set fields of a JSON object, which is created when it is missing; `...` removes one."""

    def change(folder: Path) -> None:
        path = folder / name
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        document.update(values)
        path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}), encoding="utf-8")

    return change


def content(name: str, raw: bytes) -> Change:
    """Write a file's bytes."""
    return lambda folder: (folder / name).write_bytes(raw)


def prefixed(name: str, prefix: bytes) -> Change:
    """Put bytes before a file's own; a missing JSON file is taken as `{}`."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(prefix + (path.read_bytes() if path.exists() else b"{}"))

    return change


def added_token(text: str, number: int | None = None, *, special: bool = True) -> Change:
    """Add a token to tokenizer.json, by default with the first id beyond the embedding."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        token = {"id": 1024 if number is None else number, "content": text, "special": special}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        document["added_tokens"].append(token | flags)
        path.write_text(json.dumps(document), encoding="utf-8")

    return change


def header(change: Callable[[dict[str, Any]], object], name: str = "model.safetensors") -> Change:
    """Change the header of a safetensors file; its data stay as they are."""

    def rewrite(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        document = json.loads(raw[8 : 8 + length])
        change(document)
        text = json.dumps(document).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])

    return rewrite


def repeated_name(name: str) -> Change:
    """State one tensor twice in the header."""

    def rewrite(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        document = json.loads(raw[8 : 8 + length])
        text = json.dumps(document)[:-1] + f", {json.dumps(name)}: {json.dumps(document[name])}}}"
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + raw[8 + length :])

    return rewrite


def copied(source: str, target: str) -> Change:
    """Copy a file of the folder."""
    return lambda folder: shutil.copy(folder / source, folder / target)


def renamed(source: str, target: str) -> Change:
    """Rename a file of the folder."""
    return lambda folder: (folder / source).rename(folder / target)


def removed(name: str) -> Change:
    """Remove a file of the folder."""
    return lambda folder: (folder / name).unlink()


def sentencepiece(count: int) -> bytes:
    """Return a SentencePiece model of so many tokens."""
    return b"".join(b"\x0a" + bytes([len(piece)]) + piece for piece in (b"\x0a\x02ab" for _ in range(count)))
