"""Defects of an answer besides failing: loops and the kinds of nonsense, and the gates on both."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import NormalDist, fmean

from core.benchmarks import NONSENSE, Flaw, Sample
from core.degeneration import judge_text
from core.programs import RunOutcome
from core.reasons import Reason
from core.versions import Decision, Finding, TrialReport
from evals.statistics.bounds import tango_bounds
from evals.statistics.intervals import paired_p
from evals.statistics.tally import judged

LOW_LOGPROB = -2.5
"""Mean log-probability (nats a token) under which an answer counts as improbable: the model gave each token 8 % on geometric average,
about the perplexity (12) of guessing among a dozen words at every token. Code that models mean has -0.1 to -1."""

WEAK_JUDGE = -3.5
"""Mean log-probability (nats a token) of natural texts, or of its own answers, under which the stable version is not a judge."""
_BELOW_NATURAL = 2.5
_BELOW_OWN = 1.5
"""Nats a token by which an improbable answer is below natural texts, and below the stable version's own answer to the problem."""
_HIGHEST_FLOOR = -4.5
_NONSENSE_HINT = (
    "Read the answers in the benchmark's report; check the weights' conversion, rope theta, tokenizer and dtype, and submit again"
)
_MAX_CHARS = 200_000  # an answer of any plan's length; what is longer is not parsed and counts as unparsable
_ALPHA = 0.05
_LOOPS = frozenset({Flaw.LOOP})
Key = tuple[str, str, int]
"""(task_id, sampling, index): answers of two versions with one key are a pair."""
_Found = dict[Key, bool]


@dataclass(frozen=True, slots=True)
class Means:
    """Mean log-probabilities under the stable version, in nats a token: of natural texts, and of the answers of both versions.

    `natural` is the mean over `evals.second_model.NATURAL`, None where the engine states too little. `sound` has the candidate's answers
    that are not improbable whatever their mean: those that pass their checks, and those in a language other than English, for which
    the natural texts do not hold. `unavailable` is the reason where nothing is known.
    """

    natural: float | None = None
    candidate: Mapping[Key, float] = field(default_factory=dict)
    stable: Mapping[Key, float] = field(default_factory=dict)
    sound: frozenset[Key] = frozenset()
    unavailable: str = ""


def flaws(
    *,
    text: str,
    code: str,
    entry_point: str,
    finish_reason: str,
    completion_tokens: int,
    mean_logprob: float | None,
    prompt: str = "",
) -> tuple[Flaw, ...]:
    """Return the flaws of one answer, in `Flaw`'s order; () for a sound answer, whether it passes its checks or not.

    `text` is the answer as the engine gave it. `code` is the judged program (the extractor's; with `prompt` where the prompt precedes
    it). LOOP and NONSENSE: `core.degeneration.judge_text`, the measure of live conversations. EMPTY: no visible character. CUT: ended
    by its length. UNPARSABLE: the whole program is not valid Python. NO_ENTRY_POINT: it parses and binds no such name at its top level.
    Without an entry point the task does not ask for a program, and these two flaws are not checked. LOW_LOGPROB: `mean_logprob` (nats)
    below `LOW_LOGPROB`.
    Nothing is executed; an answer that breaks the parser (depth, NUL, size) is unparsable.
    """
    tree = _parsed(prompt + code) if entry_point else None
    judged = judge_text(text, completion_tokens, finish_reason)
    found = {
        Flaw.LOOP: judged.looped,
        Flaw.EMPTY: not text.strip(),
        Flaw.CUT: finish_reason == "length",
        Flaw.UNPARSABLE: bool(entry_point) and tree is None,
        Flaw.NO_ENTRY_POINT: tree is not None and entry_point not in _bound(tree.body),
        Flaw.LOW_LOGPROB: mean_logprob is not None and isfinite(mean_logprob) and mean_logprob < LOW_LOGPROB,
        Flaw.NONSENSE: judged.nonsense.found,
    }
    return tuple(flaw for flaw in Flaw if found[flaw])


def judge_loops(candidate: Sequence[Sample], baseline: Sequence[Sample], policy_limit: float) -> tuple[Decision, str]:
    """Return whether the candidate loops more than its baseline by more than `policy_limit` (a fraction of answers, 0 to 1), with a reason.

    Answers of both to the same problem, sampling and index are pairs; with a baseline the difference of loop rates has Tango's bounds
    at 95 % each (`evals.statistics.bounds.tango_bounds`). FAIL when the measured rate exceeds the baseline's by more than the limit and
    the difference is significantly above zero, by these bounds and by the exact sign test (`paired_p`), since the bounds are too narrow
    where few pairs differ: a few chance loops never refuse a model. PASS when the rate does not exceed it;
    INCONCLUSIVE in between, and when there are no answers. Without a baseline only the limit applies, and the rate's own lower bound (that
    of a proportion, as a difference from an answer that never loops) must be above zero.
    """
    return _compared(_with(candidate, _LOOPS), _with(baseline, _LOOPS), policy_limit, "end in a loop")


def judge_nonsense(candidate: TrialReport, baseline: TrialReport | None, policy_limit: float) -> tuple[Finding, dict[str, float]]:
    """Return the finding whether the candidate's benchmark answers are nonsense more often than its baseline's, and its numbers.

    Reads the rows of both reports (`evals.benchmark.Row`). An answer counts when its text has the marks of nonsense (`Flaw.NONSENSE`), or
    when the model that wrote it held it for improbable (`Flaw.LOW_LOGPROB`): the first does not depend on the model, the second not on the
    language. Beside a baseline an empty answer counts too. Decides as `judge_loops` does. Without a baseline (a first version)
    `policy_limit` is absolute. Inconclusive passes.
    """
    flaws = NONSENSE if baseline is None else NONSENSE | {Flaw.EMPTY}
    ours = _flawed(candidate, flaws)
    theirs = _flawed(baseline, flaws) if baseline is not None else {}
    decision, reason = _compared(ours, theirs, policy_limit, "are nonsense" if baseline is None else "are nonsense or empty")
    failed = decision is Decision.FAIL
    finding = (
        Finding.failed(Reason.NONSENSE_ANSWERS, reason, _NONSENSE_HINT) if failed else Finding("no_nonsense", passed=True, reason=reason)
    )
    rates = {"nonsense_rate": ours.values(), "stable_nonsense_rate": theirs.values()}
    return finding, {name: fmean(values) for name, values in rates.items() if values}


def judge_improbable(means: Means, policy_limit: float) -> tuple[Finding, dict[str, float]]:
    """Return the finding whether the candidate's answers are improbable to the stable version more often than its own, and its numbers.

    An answer is improbable when its mean log-probability is below a floor, and more than `_BELOW_OWN` below that of the stable version's
    own answer to the problem. The floor is `_BELOW_NATURAL` below the mean of natural texts (`evals.second_model.NATURAL`), at most
    `_HIGHEST_FLOOR`. Answers that pass their checks are not improbable, nor are those in another language than English. Decides as
    `judge_nonsense` does. Passes where the stable version cannot judge: natural texts or its own answers are below `WEAK_JUDGE`, or it
    states no probabilities.
    """
    paired = sorted(means.candidate.keys() & means.stable.keys())
    why_not = means.unavailable or _weakness(means.natural, [means.stable[key] for key in paired])
    if why_not or means.natural is None:
        return Finding("stable_cannot_judge", passed=True, reason=f"the stable version cannot judge: {why_not}"), {}
    floor = min(means.natural - _BELOW_NATURAL, _HIGHEST_FLOOR)
    ours = {key: key not in means.sound and means.candidate[key] < min(floor, means.stable[key] - _BELOW_OWN) for key in paired}
    theirs = {key: means.stable[key] < floor for key in paired}
    decision, reason = _compared(ours, theirs, policy_limit, f"are improbable to the stable version (below {floor:.1f} nats a token)")
    numbers = {
        "judge_mean": fmean(means.candidate[key] for key in paired),
        "judge_stable_mean": fmean(means.stable[key] for key in paired),
        "improbable_rate": fmean(ours.values()),
    }
    if decision is Decision.FAIL:
        return Finding.failed(Reason.NONSENSE_ANSWERS, reason, _NONSENSE_HINT), numbers
    return Finding("probable_to_stable", passed=True, reason=reason), numbers


def _weakness(natural: float | None, own: Sequence[float]) -> str:
    """Return why the stable version is a weak judge, by the means of natural texts and of its `own` answers; empty where it is not."""
    if natural is None:
        return "its engine stated too few probabilities of natural texts"
    if natural < WEAK_JUDGE:
        return f"plain English and Python have a mean of {natural:.1f} nats a token for it, below {WEAK_JUDGE:g}"
    if not own:
        return "no problem has long enough answers of both versions"
    if fmean(own) < WEAK_JUDGE:
        return f"its own answers have a mean of {fmean(own):.1f} nats a token, below {WEAK_JUDGE:g}"
    return ""


def _compared(ours: _Found, theirs: _Found, policy_limit: float, what: str) -> tuple[Decision, str]:
    if not ours:
        return Decision.INCONCLUSIVE, f"there are no judged answers that {what}"
    paired = sorted(ours.keys() & theirs.keys()) if theirs else sorted(ours)
    if not paired:
        return Decision.INCONCLUSIVE, "the baseline answered none of these problems"
    more = sum(ours[key] and not theirs.get(key, False) for key in paired)
    fewer = sum(theirs.get(key, False) and not ours[key] for key in paired)
    rate, own = sum(ours[key] for key in paired) / len(paired), sum(theirs.get(key, False) for key in paired) / len(paired)
    low, high = tango_bounds(fewer, more, len(paired), NormalDist().inv_cdf(1 - _ALPHA))
    against = f" against the baseline's {100 * own:.1f} %" if theirs else ""
    said = f"{100 * rate:.1f} % of {len(paired)} answers {what}{against} ({100 * low:+.1f} to {100 * high:+.1f} points)"
    if rate - own <= policy_limit + 1e-9:
        return Decision.PASS, f"{said}; {100 * policy_limit:.4g} points more are allowed"
    if low > 0 and paired_p(more, fewer) <= _ALPHA:
        return Decision.FAIL, f"{said}; more than the {100 * policy_limit:.4g} points that are allowed"
    return Decision.INCONCLUSIVE, f"{said}; too few answers to tell it from chance"


def _with(samples: Sequence[Sample], flaws: frozenset[Flaw]) -> _Found:
    return {(one.task_id, one.sampling, one.index): not flaws.isdisjoint(one.flaws) for one in judged(samples)}


def _flawed(report: TrialReport, flaws: frozenset[Flaw]) -> _Found:
    return {
        (row["task_id"], row["sampling"], row["index"]): not flaws.isdisjoint(row["flaws"])
        for row in report.detail.get("rows", ())
        if row["outcome"] != RunOutcome.SANDBOX_FAULT
    }


def _parsed(program: str) -> ast.Module | None:
    """Return the program's tree, or None where it has none or would cost too much.

    CPython's parser bounds its own stack: what nests too deep is a SyntaxError, RecursionError or MemoryError, never a crash.
    """
    if len(program) > _MAX_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like of generated code are not warnings about our code
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _bound(body: Sequence[ast.stmt]) -> set[str]:
    """Return the names that the top level binds: definitions, imports, assignments; also below `if`, `try` and `with`."""
    names: set[str] = set()
    waiting = list(body)
    while waiting:
        statement = waiting.pop()
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update(alias.asname or alias.name for alias in aliases)
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                names.add(name)
            case _:
                waiting.extend(child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt))
    return names
