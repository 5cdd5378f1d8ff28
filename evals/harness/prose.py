"""The text around code: its remarks about a block, and the lines of code between prose."""

from __future__ import annotations

import re

from evals.harness.fences import Block
from evals.source import MOST_CHARS, defines, parsed

_WRONG = re.compile(
    r"\b(?:wrong|incorrect|buggy|bugs?|broken|flawed|faulty|naive|fails|avoid|instead of|mistakes?|original code)\b"
    r"|\b(?:does|do|did|will|would)(?: not|n't) work\b|\bdo(?: not|n't) write\b|\bnot correct\b",
    re.IGNORECASE,
)
_RIGHT = re.compile(r"\b(?:correct(?:ed|ion|s)?|fix(?:ed|es)?|right|better|improved|final|works|use this)\b", re.IGNORECASE)
_ABOUT_IT = re.compile(
    r"\b(?:this|that|it|above)\b[^.!?\n]{0,60}\b(?:wrong|incorrect|not correct|flawed|(?:does|do|did|will)(?: not|n't) work)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?\n]")
_STARTS = re.compile(r"(?:from|import|def|class|async[ \t]+def|@)\b|@|[A-Za-z_]\w*[ \t]*(?::[^=\n]{1,80})?=[^=]")
_NEAR_CHARS = 400


def called_wrong(block: Block) -> bool:
    """Return whether the text calls a block wrong: the last sentence before it ("A wrong way:"), or the first one after it.

    "That is wrong. Corrected:" before a block speaks of the block before.
    """
    before = _SENTENCE.split(block.before.strip().rstrip(":.")[-_NEAR_CHARS:])[-1]
    if _WRONG.search(before) and not _RIGHT.search(before.replace("not correct", "").replace("incorrect", "")):
        return True
    after = _SENTENCE.split(block.after.strip()[:_NEAR_CHARS])[0]
    return _ABOUT_IT.search(after) is not None


def code_lines(text: str, entry_point: str) -> str:
    """Return the imports, definitions and constants between the prose of a text that defines the entry point; empty where none does.

    A part begins at a line at the indentation of the entry point's `def` and takes the deeper lines that follow.
    """
    text = text[:MOST_CHARS]
    if not defines(text, entry_point) and not re.search(rf"^[ \t]+(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", text, re.MULTILINE):
        return ""
    if parsed(text) is not None:
        return text
    lines = text.split("\n")
    definition = re.compile(rf"([ \t]*)(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}[ \t]*\(")
    indents = [len(found.group(1)) for line in lines if (found := definition.match(line))]
    if not indents:
        return ""
    parts = [part for part in _parts(lines, indents[-1]) if parsed(part) is not None]
    program = "\n".join(parts) + "\n"
    return program if defines(program, entry_point) else "\n".join(_parts(lines, indents[-1])) + "\n"


def _parts(lines: list[str], indent: int) -> list[str]:
    """Return the parts of a text that look like statements at one indentation, dedented; decorators stay with their function."""
    parts: list[list[str]] = []
    taking = False
    for line in lines:
        depth = len(line) - len(line.lstrip(" \t"))
        blank = not line.strip()
        if blank or depth > indent or (depth == indent and line.lstrip()[:1] in {")", "]", "}"}):
            if taking:
                parts[-1].append("" if blank else line[indent:])
            continue
        starts = depth == indent and _STARTS.match(line, depth) is not None
        if starts and not (taking and parts[-1][-1].startswith("@")):
            parts.append([])
        taking = starts
        if starts:
            parts[-1].append(line[indent:])
    return ["\n".join(part).rstrip("\n") for part in parts]
