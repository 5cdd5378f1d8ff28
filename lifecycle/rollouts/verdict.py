"""The verdict: two cohorts of the same time, joined over errors, latency, degeneration and votes."""

from __future__ import annotations

from core.endpoints import Cohort, Verdict
from core.ids import Epoch
from core.ports.records import Cohorts
from core.settings import RolloutPolicy
from core.versions import Decision
from lifecycle.rollouts.sequential_test import e_value

_ENOUGH = 10  # completions before a hard limit speaks


def judge(cohorts: Cohorts, policy: RolloutPolicy, *, needed: int, now: Epoch) -> Verdict:
    """Weigh what both cohorts did so far.

    Fails on a hard limit (errors, time to first token), on evidence over 1/alpha that bad conversations are more frequent with the
    candidate, or on such evidence from thumbs (a veto; thumbs never promote). Passes when the candidate has `needed`
    conversations and its part of bad ones is at most the stable version's plus the margin. Otherwise inconclusive.
    """
    evidence = e_value(cohorts.outcomes)
    thumbs = e_value(cohorts.outcomes, thumbs=True)
    decision, reason = _decide(cohorts, policy, needed, evidence, thumbs)
    return Verdict(decision, reason, cohorts.stable, cohorts.candidate, evidence, thumbs, now)


def _decide(cohorts: Cohorts, policy: RolloutPolicy, needed: int, evidence: float, thumbs: float) -> tuple[Decision, str]:
    stable, candidate = cohorts.stable, cohorts.candidate
    limit = _hard_limit(stable, candidate, policy)
    if limit:
        return Decision.FAIL, limit
    if evidence > 1.0 / policy.alpha:
        return Decision.FAIL, f"{_bad(cohorts)}; evidence {evidence:.3g} exceeds {1 / policy.alpha:.3g}"
    if thumbs > 1.0 / policy.alpha:
        return Decision.FAIL, f"users voted the candidate down; evidence {thumbs:.3g} exceeds {1 / policy.alpha:.3g}"
    if candidate.conversations < needed:
        return Decision.INCONCLUSIVE, f"{candidate.conversations} of {needed} conversations with the candidate"
    if _rate(candidate) > _rate(stable) + policy.margin:
        return Decision.INCONCLUSIVE, f"{_bad(cohorts)}; no certainty yet"
    return Decision.PASS, _bad(cohorts)


def _hard_limit(stable: Cohort, candidate: Cohort, policy: RolloutPolicy) -> str:
    if candidate.completions < _ENOUGH:
        return ""
    failed = candidate.errors / candidate.completions
    if failed > policy.max_error_rate and failed > 2 * (stable.errors / max(1, stable.completions)):
        return f"{candidate.errors} of {candidate.completions} answers of the candidate failed; the limit is {policy.max_error_rate:.0%}"
    slow = candidate.ttft_p95_s or 0.0
    if slow > policy.slow_ttft_s and slow > 2 * (stable.ttft_p95_s or 0.0):
        return f"95 % of first tokens of the candidate took up to {slow:.1f} s; the limit is {policy.slow_ttft_s:.1f} s"
    return ""


def _rate(cohort: Cohort) -> float:
    return cohort.bad / cohort.conversations if cohort.conversations else 0.0


def _bad(cohorts: Cohorts) -> str:
    stable, candidate = cohorts.stable, cohorts.candidate
    return f"bad conversations: candidate {candidate.bad} of {candidate.conversations}, stable {stable.bad} of {stable.conversations}"
