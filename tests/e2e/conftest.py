"""Embedded stacks as a user starts them: `seatrial up`. Modules that follow one another with equal settings (`ENVIRON`) share one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e.harness import Stack

HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules that share a stack next to each other, at the place of the first one; the order within a module stays."""
    keys = [_key(item) if HERE in item.path.parents else item for item in items]
    first: dict[object, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    order = sorted(range(len(items)), key=lambda position: first[keys[position]])
    items[:] = [items[position] for position in order]


class SharedStack:
    """At most one running stack of the session."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._folders = tmp_path_factory
        self._running: Stack | None = None

    def get(self, environ: Mapping[str, str]) -> Stack:
        """Return the running stack, or start one. The caller ends it before it asks for other settings."""
        if self._running is None:
            starting = Stack(self._folders.mktemp("home"), environ)
            starting.__enter__()
            self._running = starting
        assert self._running.environ == dict(environ), "the stack of other settings still runs"
        return self._running

    def end(self) -> None:
        """Stop it; fail if a process outlives it."""
        running, self._running = self._running, None
        if running is not None:
            running.__exit__()
            left = running.left_processes()
            assert left == [], f"processes outlived the stack: {left}"


@pytest.fixture(scope="session")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStack]:
    shared = SharedStack(tmp_path_factory)
    yield shared
    shared.end()


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, shared_stack: SharedStack) -> Iterator[Stack]:
    """The stack of the module's settings. The last of the modules that share it ends it."""
    yield shared_stack.get(_environ(request.module))
    if not _is_shared_with_the_next(request.session.items, request.module):
        shared_stack.end()


def _is_shared_with_the_next(items: list[pytest.Item], module: ModuleType) -> bool:
    modules = [next(group) for _, group in groupby(items, key=_module)]
    position = next(index for index, item in enumerate(modules) if _module(item) is module)
    return position + 1 < len(modules) and _key(modules[position + 1]) == _key(modules[position])


def _key(item: pytest.Item) -> object:
    """The settings of the shared stack; for a module with stacks of its own, the module."""
    module = _module(item)
    own = not hasattr(module, "ENVIRON") or "stack" in vars(module)
    return module if own else tuple(sorted(_environ(module).items()))


def _module(item: pytest.Item) -> ModuleType:
    assert isinstance(item, pytest.Function)
    return item.module  # type: ignore[no-any-return]


def _environ(module: ModuleType) -> dict[str, str]:
    return getattr(module, "ENVIRON", {})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the stack was at, for what happens only on another machine is found only from what it printed."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(running, Stack):
        report.sections.append(("the stack", running.story()))
    return report
