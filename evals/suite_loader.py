"""Loads any suite by its name: from its file, or from lm-eval."""

from __future__ import annotations

from core.errors import Refused
from core.ids import Digest
from core.reasons import Reason
from core.settings import TrialPolicy
from evals.harness.extract import find_extractor
from evals.suites.files import read_suite
from evals.suites.sources import HUMANEVAL, packaged_humaneval
from evals.suites.suite import LMEVAL, Suite


def load_suite(name: str, policy: TrialPolicy | None = None, digest: Digest | None = None) -> Suite:
    """Load a suite: by its name in evals/suites, `humaneval`, `lmeval:TASK`, or the path of a .jsonl or .jsonl.gz file.

    Raises Refused with the file, the line and the fault, or with the places where the suite was not found; with `digest` also where its
    problems are no longer those of that sha256.
    """
    suite = _loaded(name, policy or TrialPolicy())
    for way in (suite.completion, suite.chat) if not suite.lmeval else ():
        find_extractor(way.extractor)
    if digest and suite.digest != digest:
        raise Refused(
            f"the suite {name} has changed since it was asked (sha256 {suite.digest[:12]}, then {digest[:12]})",
            reason=Reason.SUITE_CHANGED,
            hint="start another benchmark",
        )
    return suite


def _loaded(name: str, sources: TrialPolicy) -> Suite:
    if name.startswith(LMEVAL):
        from evals.harness.lmeval_suites import describe  # noqa: PLC0415 - the other suites need no child process

        return describe(name, sources.lmeval_tasks)
    return read_suite(name, sources.humaneval)


def is_local(name: str, policy: TrialPolicy) -> bool:
    """Return whether a suite is read from this machine alone: no task of lm-eval, and no HumanEval that the hub would have to send."""
    if name == HUMANEVAL:
        return bool(policy.humaneval) or packaged_humaneval() is not None
    return not name.startswith(LMEVAL)
