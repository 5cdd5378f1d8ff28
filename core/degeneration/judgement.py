"""The judgement of one answer's text: does it loop, and is it nonsense."""

from __future__ import annotations

from dataclasses import dataclass

from core.degeneration.loops import FoundLoop, find_loop
from core.degeneration.nonsense import Nonsense, find_nonsense


@dataclass(frozen=True, slots=True)
class TextJudgement:
    """`loop` is None where the text does not end in one."""

    loop: FoundLoop | None
    nonsense: Nonsense

    @property
    def looped(self) -> bool:
        """Whether the text ends in a loop."""
        return self.loop is not None

    @property
    def degenerate(self) -> bool:
        """Whether the text loops or is nonsense."""
        return self.loop is not None or self.nonsense.found


def judge_text(text: str, completion_tokens: int, finish_reason: str | None) -> TextJudgement:
    """Return the defects of an answer's text.

    `completion_tokens` are those of `text`, as the engine counted them; `finish_reason` is the engine's (None: the client left). Pure and
    deterministic. O(len(text)): the last 4,096 characters are read for exact
    loops, 2,048 for others, and 1,024 for nonsense.
    """
    return TextJudgement(find_loop(text, completion_tokens, finish_reason), find_nonsense(text, completion_tokens))
