"""What cuts the program out of an answer. A version never changes what it does: another way of cutting is another version."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence

from core.errors import Refused
from core.reasons import Reason

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_MOST_CHARS = 1 << 20

Extractor = Callable[[str, str, str, Sequence[str]], str]
"""(problem's prompt, answer, entry point, stop strings) -> the program."""


def extract(version: str, *, prompt: str, answer: str, entry_point: str, stops: Sequence[str] = ()) -> str:
    """Return the program in an answer to a problem by the named extractor. Raises Refused for one that is not known."""
    try:
        extractor = EXTRACTORS[version]
    except KeyError as error:
        raise Refused(
            f"there is no extractor {version[:80]!r}",
            reason=Reason.BAD_SUITE,
            hint=f"correct the suite's header: use one of {', '.join(EXTRACTORS)}",
        ) from error
    return extractor(prompt, answer[:_MOST_CHARS], entry_point, stops)


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


EXTRACTORS: Mapping[str, Extractor] = {"completion-v1": completion_v1, "chat-v1": chat_v1}
