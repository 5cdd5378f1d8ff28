"""Each minute: what has no run gets one, what stopped moving is taken over, engines are kept as the rows want them."""

from __future__ import annotations

from prefect import flow

from tasks.reconcile import drive_rollouts, keep_engines, mark_catalogue, resume_benchmarks, resume_submissions, sweep_leftovers


@flow(name="reconcile", persist_result=False)
def reconcile() -> None:
    """Make one pass. Two passes at once do no harm. One part that fails does not keep the others from running."""
    parts = (keep_engines, drive_rollouts, resume_submissions, resume_benchmarks, sweep_leftovers, mark_catalogue)
    for state in [part(return_state=True) for part in parts]:
        state.result()
