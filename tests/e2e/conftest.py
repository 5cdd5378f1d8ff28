"""One embedded stack per module, as a user starts it: `seatrial up`, with settings of the module's own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the stack was at, for what happens only on another machine is found only from what it printed."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(running, Stack):
        report.sections.append(("the stack", running.story()))
    return report
