"""The architecture is one that vLLM serves. `architectures.txt` is made from vLLM's own registry (see README.md)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from core.versions import Finding
from evals.checks.evidence import Evidence
from evals.checks.reading import shown
from evals.checks.report import NotCheckable, fail, first_of


@cache
def known_architectures() -> frozenset[str]:
    """Return the names of the text-generation architectures of the engine's vLLM."""
    return frozenset(Path(__file__).with_name("architectures.txt").read_text(encoding="ascii").split())


def served_architecture(evidence: Evidence) -> Iterator[Finding]:
    """Hold config.json's `architectures` against vLLM's list."""
    if _known(evidence) is not None:
        return
    stated, named = evidence.config.get("architectures"), _named(evidence)
    if stated is None:
        what = "config.json has no `architectures`"
    elif not named:
        what = f"`architectures` in config.json must be a list of names, got {shown(stated)}"
    else:
        what = f"vLLM does not serve the architecture {first_of(named)} for text generation"
    yield fail(
        "unknown_architecture",
        f"{evidence.model}: {what}",
        f"Set `architectures` to one of the {len(known_architectures())} that vLLM serves, such as LlamaForCausalLM, and submit again",
    )


def architecture(evidence: Evidence) -> str:
    """Return the architecture that the engine will take. Raises NotCheckable."""
    found = _known(evidence)
    if found is None:
        raise NotCheckable
    return found


def _known(evidence: Evidence) -> str | None:
    return next((name for name in _named(evidence) if name in known_architectures()), None)


def _named(evidence: Evidence) -> list[str]:
    names = evidence.config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
