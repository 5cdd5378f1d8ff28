"""Asks the engine of the stable version how probable a candidate's benchmark answers are to it: a second model as a judge.

A damaged model is often sure of its nonsense, so its own log-probabilities do not show it; those of a sound model do. The decision is
`evals.degeneration.judge_improbable`. docs/degeneration.md lists the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import isfinite
from statistics import fmean

from core.benchmarks import Form, Plan, Sample, aligned
from core.degeneration import in_other_language
from core.errors import Refused
from evals.degeneration import WEAK_JUDGE, Key, Means
from evals.engine_client import EngineClient
from evals.harness.asking import Asking
from evals.harness.job import Patience
from evals.statistics.tally import judged
from evals.suites.suite import Suite

MOST_ANSWERS = 24
"""Answers of each version that are read, spread evenly over the problems: the engine serves live traffic."""
MOST_CHARS = 800
"""Of an answer, from its beginning. The engine holds a value of its whole vocabulary for every token of a prompt that it judges."""
LONGEST_QUESTION = 4000
"""Characters; the answers to a longer question are not read."""
LEAST_TOKENS = 8
"""The mean of fewer tokens varies too much to count."""
_LEAST_LOGPROB = -25.0
"""What a less probable token counts as: engines state -9999 for an impossible one."""
NATURAL = (
    (
        "The library is open from nine to five on weekdays. Bring your card with you, because you need it to borrow books. "
        "If a book is late, you have to pay a small fee. Please ask the staff at the front desk if you need help."
    ),
    (
        "This function takes a list of numbers and returns the largest one. It first checks whether the list is empty. If it is, the "
        "function raises an error. Otherwise it goes through the list and compares each number with the largest one so far."
    ),
    (
        "def count_words(text):\n    counts = {}\n    for word in text.lower().split():\n        counts[word] = counts.get(word, 0) + 1\n"
        "    return counts\n"
    ),
)
"""Plain English and Python, written for this file. A model that finds these texts improbable cannot judge those of another model."""


@dataclass(frozen=True, slots=True)
class Question:
    """An answer and what it answers, as the judging engine is given them. `tokens` of the question alone, 0 where unknown."""

    key: Key
    asked: str | tuple[Mapping[str, str], ...]
    tokens: int
    answer: str
    passed: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """Answers of the candidate and of the stable version to the same questions, in one order."""

    candidate: tuple[Question, ...] = ()
    stable: tuple[Question, ...] = ()


def pairs_of(suite: Suite, plan: Plan, ours: Sequence[Sample], stable_plan: Plan, theirs: Sequence[Sample]) -> Pairs:
    """Return what to ask of two versions' answers to one suite, each answer after the question in the form of its own plan.

    A stable version without a chat template is given a candidate's chat as raw text, the answer after an empty line. Empty answers and
    those that could not be judged are left out on both sides. Answers are cut to `MOST_CHARS`.
    """
    problems = {problem.task_id: problem for problem in suite.problems}
    ours_by, theirs_by = _by_key(ours), _by_key(aligned(theirs, stable_plan, plan))
    common = sorted(key for key in ours_by.keys() & theirs_by.keys() if key[0] in problems)
    same = plan.form is stable_plan.form

    def question(key: Key, sample: Sample, form: Form) -> Question:
        shown = suite.shown(problems[key[0]], form)
        tokens = theirs_by[key].prompt_tokens if same or sample is theirs_by[key] else 0
        if form is Form.CHAT and stable_plan.form is not Form.CHAT:
            return Question(key, f"{shown}\n\n", 0, sample.text[:MOST_CHARS], sample.passed)
        asked = ({"role": "user", "content": shown},) if form is Form.CHAT else shown
        return Question(key, asked, tokens, sample.text[:MOST_CHARS], sample.passed)

    chosen = _spread([key for key in common if len(suite.shown(problems[key[0]], plan.form)) <= LONGEST_QUESTION])
    return Pairs(
        tuple(question(key, ours_by[key], plan.form) for key in chosen),
        tuple(question(key, theirs_by[key], stable_plan.form) for key in chosen),
    )


def ask_means(engine: EngineClient, pairs: Pairs, concurrency: int, asking: Asking | None = None) -> Means:
    """Return how probable the answers and the natural texts are to the engine, `concurrency` requests at a time.

    Answers of fewer than `LEAST_TOKENS` tokens and answers that the engine refuses (too long) have no mean. Transient errors are retried,
    then raised. A model that finds natural texts improbable is not asked about answers.
    """
    if not pairs.candidate:
        return Means(unavailable="there are no answers of both versions to the same problems")
    patient = asking or Asking(concurrency, Patience())
    try:
        natural = [mean_of(patient.patiently(partial(engine.answer_logprobs, "", text, 1))) for text in NATURAL]
    except Refused as error:
        return Means(unavailable=f"its engine does not state the probabilities of a prompt: {error.what}")

    known = [one for one in natural if one is not None]
    level = fmean(known) if known else None
    if level is None or level < WEAK_JUDGE:
        return Means(level)

    def mean(one: Question) -> float | None:
        try:
            return mean_of(patient.patiently(partial(engine.answer_logprobs, one.asked, one.answer, one.tokens)))
        except Refused:
            return None

    with ThreadPoolExecutor(concurrency, "judge") as pool:
        found = list(pool.map(mean, [*pairs.candidate, *pairs.stable]))
    half = len(pairs.candidate)
    sound = frozenset(one.key for one in pairs.candidate if one.passed or in_other_language(one.answer))
    return Means(level, _means(pairs.candidate, found[:half]), _means(pairs.stable, found[half:]), sound)


def mean_of(logprobs: Sequence[float]) -> float | None:
    """Return the mean of an answer's tokens, None where it has fewer than `LEAST_TOKENS`."""
    if len(logprobs) < LEAST_TOKENS:
        return None
    return fmean(max(one, _LEAST_LOGPROB) if isfinite(one) else _LEAST_LOGPROB for one in logprobs)


def _means(questions: Sequence[Question], found: Sequence[float | None]) -> dict[Key, float]:
    return {one.key: mean for one, mean in zip(questions, found, strict=True) if mean is not None}


def _by_key(samples: Sequence[Sample]) -> dict[Key, Sample]:
    return {(one.task_id, one.sampling, one.index): one for one in judged(samples) if one.text.strip()}


def _spread(keys: Sequence[Key]) -> list[Key]:
    """Return at most `MOST_ANSWERS` keys, evenly spaced in their order, which is that of the problems."""
    count = min(len(keys), MOST_ANSWERS)
    return [keys[place * len(keys) // count] for place in range(count)]
