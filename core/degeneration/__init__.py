"""Degeneration of generated text: loops and nonsense.

The same functions read benchmark answers (trials) and live answers (the verdict on a candidate).
"""

from core.degeneration.exact import MIN_COPIES, MIN_TOKENS, Loop, repeating_tail
from core.degeneration.judgement import TextJudgement, judge_text
from core.degeneration.language import in_other_language
from core.degeneration.loops import FoundLoop, LoopKind, find_loop
from core.degeneration.nonsense import Nonsense, find_nonsense

__all__ = [
    "MIN_COPIES",
    "MIN_TOKENS",
    "FoundLoop",
    "Loop",
    "LoopKind",
    "Nonsense",
    "TextJudgement",
    "find_loop",
    "find_nonsense",
    "in_other_language",
    "judge_text",
    "repeating_tail",
]
