"""The code blocks of an answer, and where code ends. Every function reads a text a bounded number of times: answers may be hostile.

A Markdown fence inside a Python string does not end a block: models quote their docstrings. Outside of strings and comments no Python code
holds three backticks, so a fence also ends a block in the middle of a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

_TOKEN = re.compile(r"'''|\"\"\"|['\"#\n()\[\]{}]|`{3,}|\\[\s\S]?")
_OPENING = re.compile(r"[ \t]*(?:>[ \t]?)*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?(`{3,}|~{3,})")
_MARK = re.compile(r"```|~~~")
_LANGUAGES = frozenset({"", "python", "python3", "py"})
_MARKER = re.compile(
    r"<\|(?:endoftext|end_of_text|im_end|im_start|eot_id|eom_id|end|assistant|user|system|eos|file_sep|fim_pad)\|>"
    r"|</s>|<eos>|<end_of_turn>|<EOT>|<｜end▁of▁sentence｜>"  # noqa: RUF001 - DeepSeek's own characters
)
_DEPTHS: Mapping[str, int] = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_MOST_BLIND_SCANS = 4
_MOST_MARKERS = 64
_REST: Mapping[str, re.Pattern[str]] = {
    quote: re.compile(rf"(?:[^{quote[0]}\\{line}]|\\[\s\S]|{inner})*(?:{quote})?")
    for quote, line, inner in (
        ("'", r"\n", "(?!)"),
        ('"', r"\n", "(?!)"),
        ("'''", "", "'(?!'')"),
        ('"""', "", '"(?!"")'),
    )
}
"""The rest of a string by the quotes that began it. None of them can fail, so none tries a text twice."""


@dataclass(frozen=True, slots=True)
class Block:
    """One code block: its text without the fence's indentation, and the prose since the block before it and up to the next one."""

    text: str
    before: str
    after: str


def plain(answer: str) -> str:
    """Return an answer with line feeds as its only line ends, without byte-order mark, thoughts, and what follows its end token."""
    text = answer.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    _thought, mark, said = text.rpartition("</think>")
    text = said if mark else text
    start = 0
    while leading := _MARKER.match(text, start):  # a model that writes its own turn's beginning
        start = leading.end()
    for found in islice(_MARKER.finditer(text, start), _MOST_MARKERS):
        line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        if line.count('"') % 2 == 0 and line.count("'") % 2 == 0:
            return text[start : found.start()]
    return text[start:]


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a text, or those between `[PYTHON]` and `[/PYTHON]` where it has no fence; blank ones are left out."""
    spans = list(_fenced(text)) or list(_tagged(text))
    found = []
    for number, (begin, end, content) in enumerate(spans):
        before = text[spans[number - 1][1] if number else 0 : begin]
        after = text[end : spans[number + 1][0] if number + 1 < len(spans) else len(text)]
        if content.strip():
            found.append(Block(content, before, after))
    return found


def top_level(code: str, *, begins_line: bool = True) -> int:
    """Return where a function's body ends in `code`: at a fence, or at a line whose first column holds anything but a comment.

    Lines inside of brackets and strings belong to the statement that they continue. `begins_line`: the text before `code` ends a line.
    """
    if begins_line and _in_first_column(code, 0):
        return 0
    depth, at = 0, 0
    while found := _TOKEN.search(code, at):
        part, at = found.group(), found.end()
        if part[0] == "`":
            return found.start()
        if part == "\n" and depth == 0 and _in_first_column(code, at):
            return at
        depth = max(0, depth + _DEPTHS.get(part, 0))
        if part[0] in "'\"":
            at = _after_string(code, part, at)
        elif part == "#":
            at = _line_end(code, at)
    return len(code)


def _in_first_column(code: str, at: int) -> bool:
    return at < len(code) and code[at] not in " \t\n#\f"


def _fenced(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (begin, end, content) of each fenced block, fences included in the span."""
    at, blind = 0, 0
    while (opened := _next_opening(text, at)) is not None:
        begin, fence, content_at = opened
        indent = _width(text[text.rfind("\n", 0, begin) + 1 : begin])
        closed = _closing(text, content_at, fence, strings=blind < _MOST_BLIND_SCANS)
        if closed is None and blind < _MOST_BLIND_SCANS:
            blind += 1
            closed = _closing(text, content_at, fence, strings=False)
        end, after = (len(text), len(text)) if closed is None else closed
        yield begin, after, _dedented(text[content_at:end], indent)
        at = after


def _next_opening(text: str, at: int) -> tuple[int, str, int] | None:
    """Return the next opening fence from the line at `at` on: its offset, its text, and where the content begins."""
    while 0 <= at < len(text):
        next_mark = _MARK.search(text, at)
        if next_mark is None:
            return None
        at = max(at, text.rfind("\n", at, next_mark.start()) + 1)
        end = _line_end(text, at)
        line = text[at:end]
        found = _OPENING.match(line)
        if found is not None and "`" not in line[found.end() :]:
            return at + found.start(1), found.group(1), min(end + 1, len(text))
        within = line.rfind("```")
        if found is None and within >= 0 and line[within + 3 :].strip().lower() in _LANGUAGES and line[:within].count("```") == 0:
            return at + within, "```", min(end + 1, len(text))
        at = end + 1
    return None


def _closing(text: str, at: int, fence: str, *, strings: bool) -> tuple[int, int] | None:
    """Return where the content ends and where the text goes on; None without a closing fence.

    A fence that names Python begins the next block: the one before was left open. With `strings`, fences in strings do not count.
    """
    if fence[0] == "~":  # elsewhere than at the beginning of a line it is an operator
        ended = re.compile(rf"^[ \t]*~{{{len(fence)},}}", re.MULTILINE).search(text, at)
        return (ended.start(), ended.end()) if ended else None
    begin = at
    while found := _TOKEN.search(text, at):
        part, at = found.group(), found.end()
        if part[0] == "`" and len(part) >= len(fence):
            line_begin, line_end = text.rfind("\n", begin, found.start()) + 1 or begin, _line_end(text, at)
            first = not text[line_begin : found.start()].strip()
            opens = first and text[at:line_end].strip().lower() in _LANGUAGES - {""}
            return line_begin if first else found.start(), line_begin if opens else at
        if strings and part[0] in "'\"":
            at = _after_string(text, part, at)
        elif strings and part == "#":
            line_end = _line_end(text, at)
            fenced = text.find("```", at, line_end)
            at = fenced if fenced >= 0 else line_end
    return None


def _tagged(text: str) -> Iterator[tuple[int, int, str]]:
    at = 0
    while (begin := text.find("[PYTHON]", at)) >= 0:
        close = text.find("[/PYTHON]", begin)
        end = len(text) if close < 0 else close
        at = end + len("[/PYTHON]")
        yield begin, min(at, len(text)), text[begin + len("[PYTHON]") : end].lstrip("\n")


def _after_string(text: str, quote: str, at: int) -> int:
    """Return where the string that `quote` began before `at` ends. One in single quotes ends with its line at the latest."""
    rest = _REST[quote].match(text, at)
    return rest.end() if rest else at


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _width(before: str) -> int:
    """Return how far a fence is indented; a list's mark counts as white space, any other text does not."""
    mark = _OPENING.match(before + "```")
    return len(before) if mark is not None and mark.end() == len(before) + 3 else 0


def _dedented(content: str, indent: int) -> str:
    """Return the lines without up to `indent` leading blanks each (CommonMark, 4.5)."""
    if not indent:
        return content
    return "\n".join(line[min(indent, len(line) - len(line.lstrip(" \t"))) :] for line in content.split("\n"))
