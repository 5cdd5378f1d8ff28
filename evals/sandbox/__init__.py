"""The sandbox for generated code: one cell per program, judged from outside the cell. docs/sandbox.md lists the attacks it resists.

    platform ══ judge (runs the suite's checks, one after the other) ══ cell (runs one program)
                  ║                                                      │
                  ╚══════════ requests a cell ═ zygote ═ forks it ═══════╯

The platform uses `ProcessSandbox`. The other files run in its child processes (`python -I -S`, standard library only), which also
import this package. The class is therefore loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.sandbox.process import ProcessSandbox

__all__ = ["ProcessSandbox"]


def __getattr__(name: str) -> Any:
    if name != "ProcessSandbox":
        raise AttributeError(f"evals.sandbox has no {name}")
    from evals.sandbox.process import ProcessSandbox  # noqa: PLC0415 - not in the children

    return ProcessSandbox
