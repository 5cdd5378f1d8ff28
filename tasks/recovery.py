"""Recovery with this process's adapters."""

from __future__ import annotations

from functools import partial

from lifecycle.recovery import Recovery
from tasks.benchmarks import end_failed
from tasks.finish import end_submission
from wiring import Platform


def recovery(here: Platform) -> Recovery:
    """Return what finds abandoned submissions and benchmarks, and brings them on."""
    settings = here.settings
    return Recovery(
        here.records,
        here.runs,
        here.clock,
        pickup_s=settings.pickup_s,
        most_runs=settings.most_runs,
        end_submission=partial(end_submission, here),
        end_benchmark=end_failed,
    )
