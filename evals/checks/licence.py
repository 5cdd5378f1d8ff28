"""The licence is stated and may serve here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.versions import Finding
from evals.checks.evidence import Evidence
from evals.checks.report import fail

_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
_LICENCE = re.compile(r"^licen[cs]e:[ \t]*[\"']?([\w.+-]{1,80})[\"']?[ \t]*\r?$", re.MULTILINE)


def licence_allowed(evidence: Evidence) -> Iterator[Finding]:
    """Hold the licence that the hub or the model card states against the policy's list."""
    stated = licence(evidence)
    allowed = sorted(name.strip().lower() for name in evidence.policy.licences.split(",") if name.strip())
    if stated is None:
        yield fail(
            "licence_not_stated",
            f"{evidence.model}: no licence is stated",
            "write `license: <name>` into the front matter of README.md and submit again",
        )
    elif "*" not in allowed and stated not in allowed:
        yield fail(
            "licence_not_allowed",
            f"{evidence.model}: its licence {stated} is not among those that may serve here",
            f"submit a model under one of {', '.join(allowed)}, or ask an operator about SEATRIAL_MODELS_LICENCES",
        )


def licence(evidence: Evidence) -> str | None:
    """Return the licence by its hub name: what the hub says, else what the model card's front matter says."""
    if evidence.model.licence:
        return evidence.model.licence.strip().lower()
    front = _FRONT_MATTER.match(evidence.readme)
    found = _LICENCE.search(front[1]) if front else None
    return found[1].lower() if found else None
