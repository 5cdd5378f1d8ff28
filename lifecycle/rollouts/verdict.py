"""The verdict: two cohorts of the same time, joined over errors, latency, degeneration and votes."""

from __future__ import annotations

from core.endpoints import Cohort, Verdict
from core.ids import Epoch
from core.ports.records import Cohorts
from core.settings import RolloutPolicy
from core.versions import Decision
from lifecycle.rollouts.evidence import Evidence, weigh


def judge(cohorts: Cohorts, policy: RolloutPolicy, *, needed: int, now: Epoch) -> Verdict:
    """Weigh what both cohorts did so far.

    Fails when one of the tests of `evidence` exceeds 1/alpha: an equal candidate fails with probability at most alpha, over the whole
    rollout and all tests together. Votes are a veto; they never promote. Passes when the candidate has `needed` conversations and its part
    of bad ones is at most the stable version's plus the margin. Otherwise inconclusive.
    """
    evidence = weigh(cohorts.outcomes, policy, now)
    decision, reason = _decide(cohorts, policy, needed, evidence)
    worse = max(evidence.first, evidence.early, evidence.alone)
    return Verdict(decision, reason, cohorts.stable, cohorts.candidate, worse, evidence.thumbs, now)


def _decide(cohorts: Cohorts, policy: RolloutPolicy, needed: int, evidence: Evidence) -> tuple[Decision, str]:
    candidate, most = cohorts.candidate, 1.0 / policy.alpha
    if max(evidence.first, evidence.early) > most:
        return Decision.FAIL, f"{_bad(cohorts)}; evidence {max(evidence.first, evidence.early):.3g} exceeds {most:.3g}"
    if evidence.alone > most:
        counted = f"{evidence.alone_bad} of {evidence.alone_total} conversations with the candidate began with a bad answer"
        return Decision.FAIL, f"{counted}; the limit is {evidence.alone_limit:.0%}; evidence {evidence.alone:.3g} exceeds {most:.3g}"
    if evidence.thumbs > most:
        return Decision.FAIL, f"users voted the candidate down; evidence {evidence.thumbs:.3g} exceeds {most:.3g}"
    if candidate.conversations < needed:
        return Decision.INCONCLUSIVE, f"{candidate.conversations} of {needed} conversations with the candidate"
    if _rate(candidate) > _rate(cohorts.stable) + policy.margin:
        return Decision.INCONCLUSIVE, f"{_bad(cohorts)}; no certainty yet"
    return Decision.PASS, _bad(cohorts)


def _rate(cohort: Cohort) -> float:
    return cohort.bad / cohort.conversations if cohort.conversations else 0.0


def _bad(cohorts: Cohorts) -> str:
    stable, candidate = cohorts.stable, cohorts.candidate
    return f"bad conversations: candidate {candidate.bad} of {candidate.conversations}, stable {stable.bad} of {stable.conversations}"
