"""One embedded stack per module, as a user starts it: `seatrial up`, with settings of the module's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Stack


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environ: dict[str, str] = getattr(request.module, "ENVIRON", {})
    home: Path = tmp_path_factory.mktemp("home")
    running = Stack(home, environ)
    with running:
        yield running
    left = running.left_processes()
    assert left == [], f"processes outlived the stack: {left}"
