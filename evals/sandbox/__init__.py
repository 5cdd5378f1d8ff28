"""Where generated code runs: a cell per program, judged from outside the cell. docs/sandbox.md says against what it holds.

    platform ══ judge (runs the suite's checks, one after the other) ══ cell (runs one program)
                  ║                                                      │
                  ╚══════════ asks for a cell ═ zygote ═ forks it ═══════╯

`ProcessSandbox` is what the platform uses. The other files run in its child processes (`python -I -S`, standard library only), which
import this package too: so the class is loaded when it is asked for.
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
