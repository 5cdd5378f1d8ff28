"""Extractors: functions that find the program in an answer. The behaviour of a version never changes; a change is a new version.

docs/suites.md explains what the newest versions accept, and how they differ from evalplus's sanitizer.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence

from core.errors import Refused
from core.reasons import Reason
from evals.harness.fences import Block, blocks, plain, top_level
from evals.harness.prose import called_wrong, code_lines
from evals.source import MOST_CHARS, as_body, defines, head_of, helpers, joined, parsable, parsed, without_tests

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_MOST_CHARS = 1 << 20
_MOST_BLOCKS = 16
"""The last blocks of an answer that are read; models write fewer."""

Extractor = Callable[[str, str, str, Sequence[str]], str]
"""(problem's prompt, answer, entry point, stop strings) -> the program."""


def extract(version: str, *, prompt: str, answer: str, entry_point: str, stops: Sequence[str] = ()) -> str:
    """Return the program in an answer to a problem by the named extractor. Raises Refused for one that is not known."""
    return find_extractor(version)(prompt, answer[:_MOST_CHARS], entry_point, stops)


def find_extractor(version: str) -> Extractor:
    """Return the named extractor. Raises Refused for one that is not known."""
    try:
        return EXTRACTORS[version]
    except KeyError as error:
        raise Refused(
            f"there is no extractor {version[:80]!r}",
            reason=Reason.BAD_SUITE,
            hint=f"correct the suite's header: use one of {', '.join(EXTRACTORS)}",
        ) from error


def completion_v1(prompt: str, answer: str, _entry_point: str, stops: Sequence[str]) -> str:
    """Join prompt and answer, the answer cut at the first stop string (engines cut there too; not all do)."""
    ends = [at for stop in stops if (at := answer.find(stop)) >= 0]
    return prompt + (answer[: min(ends)] if ends else answer)


def chat_v1(prompt: str, answer: str, entry_point: str, _stops: Sequence[str]) -> str:
    """Take the longest fenced block that defines the entry point, the last of equals.

    Without such a block the longest block, without any block the whole answer; what does not define the entry point is taken for a
    function's body when it is indented, and joined to the prompt. An open fence (a cut answer) ends with the answer. The prompt's
    imports come first, so that a function given alone finds them.
    """
    blocks = [block for block in _FENCE.findall(answer) if block.strip()]
    defining = [block for block in blocks if _defines(block, entry_point)]
    program = max(reversed(defining or blocks), key=len, default=answer)
    if _defines(program, entry_point):
        return _imports(prompt) + program
    return prompt + program if program[:1] in {" ", "\t"} else program


def _defines(program: str, entry_point: str) -> bool:
    return re.search(rf"^(?:async\s+)?def\s+{re.escape(entry_point)}\s*\(", program, re.MULTILINE) is not None


def _imports(prompt: str) -> str:
    """Return what stands before the prompt's last function: imports and helper functions, where that much parses."""
    head = prompt[: max(prompt.rfind("\ndef ") + 1, 0)]
    try:
        ast.parse(head)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return head


def completion_v2(prompt: str, answer: str, entry_point: str, stops: Sequence[str]) -> str:
    """Join the prompt and the function's body, cut at the first stop string, fence, end token, or line in the first column.

    A model that answers with the whole function, or with its body dedented, is read as in a chat. Without any body the answer stays
    whole: it is not a program, and counts as one that is not.
    """
    text = plain(answer)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    text = text[: min(ends)] if ends else text
    body = text[: top_level(text, begins_line=not prompt or prompt.endswith("\n"))]
    if body.strip():
        return prompt + parsable(prompt, body)
    rest = max((block.text for block in blocks(plain(answer))), key=len, default=text)
    return _whole_function(prompt, text, entry_point) or as_body(prompt, rest) or prompt + text


def chat_v2(prompt: str, answer: str, entry_point: str, _stops: Sequence[str]) -> str:
    """Take the last fenced block that defines the entry point, with what it needs from the other blocks and from the prompt.

    Blocks that do not parse, or that the text calls wrong, are taken only where there is no other. Without such a block: the lines of
    code between prose, then the longest block or the whole answer as the function's body. Statements that only try the function are
    left out, and the prompt's imports and helpers come first. What holds no program is returned as it is.
    """
    text = plain(answer)
    found = _whole_function(prompt, text, entry_point)
    if found is not None:
        return found
    rest = max((block.text for block in blocks(text)), key=len, default=text)
    return as_body(prompt, rest) or rest


def _whole_function(prompt: str, text: str, entry_point: str) -> str | None:
    """Return the program of an answer that defines the entry point, None where it defines none."""
    found = _last(blocks(text))
    defining = [block for block in found if defines(block.text, entry_point)]
    if defining:
        chosen = _best(defining)
        others = [block.text for block in found if block not in defining]
        program = parsable("", chosen.text) if parsed(chosen.text) is None else chosen.text
        program = program if defines(program, entry_point) else chosen.text
    else:
        program, others = code_lines(text, entry_point), []
        if not program:
            return None
    program = without_tests(program, entry_point)
    return joined(head_of(prompt, entry_point), helpers(program, others) + program)


def _last(found: Sequence[Block]) -> list[Block]:
    """Return the last blocks of an answer, as many as are read."""
    room, kept = MOST_CHARS, list[Block]()
    for block in reversed(found[-_MOST_BLOCKS:]):
        room -= len(block.text)
        if room < 0 and kept:
            break
        kept.insert(0, block)
    return kept


def _best(defining: Sequence[Block]) -> Block:
    """Return the last block that parses and that the text does not call wrong; else the last that parses; else the last."""
    parses = [block for block in defining if parsed(block.text) is not None]
    good = [block for block in parses if not called_wrong(block)]
    return (good or parses or defining)[-1]


EXTRACTORS: Mapping[str, Extractor] = {
    "completion-v1": completion_v1,
    "completion-v2": completion_v2,
    "chat-v1": chat_v1,
    "chat-v2": chat_v2,
}
