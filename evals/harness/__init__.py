"""Benchmarks by lm-eval, run in a child process (docs/benchmarks.md).

    platform ── run_plan ──┬─ child: lm-eval, its tasks and filters, our LM ── HTTP ── engine
                           │     every answer to disk, then to the platform
                           └─ sandbox: judges what has come, while the engine generates the rest

The child's files import this package too, and nothing of the platform's: so what is public is loaded when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.harness.process import warm
    from evals.harness.run import results, run_plan

__all__ = ["results", "run_plan", "warm"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"evals.harness has no {name}")
    return getattr(import_module("evals.harness.process" if name == "warm" else "evals.harness.run"), name)
