"""The licence is stated and may serve here."""

from __future__ import annotations

from collections.abc import Iterator

from core.model_card import front_matter
from core.model_card import licence as stated_in
from core.reasons import Reason
from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.report import fail


def licence_allowed(files: ModelFiles) -> Iterator[Finding]:
    """Hold the licence that the hub or the model card states against the policy's list."""
    stated = licence(files)
    allowed = sorted(name.strip().lower() for name in files.policy.licences.split(",") if name.strip())
    if stated is None:
        yield fail(
            Reason.LICENCE_NOT_STATED,
            f"{files.model}: no licence is stated",
            "Add `license: <name>` to the front matter of README.md (between two lines `---`, in UTF-8) and submit again",
        )
    elif "*" not in allowed and stated not in allowed:
        yield fail(
            Reason.LICENCE_NOT_ALLOWED,
            f"{files.model}: its licence {stated[:80]} is not among the allowed ones: {', '.join(allowed)}",
            "Submit a model under one of these licences, or ask an operator to extend SEATRIAL_MODELS_LICENCES",
        )


def licence(files: ModelFiles) -> str | None:
    """Return the licence by its hub name: the one that the hub states, else the one in the model card's front matter."""
    if files.model.licence:
        return files.model.licence.strip().lower()
    return stated_in(front_matter(files.readme))
