"""The steps of a rollout as events and roles of its engines."""

from __future__ import annotations

from core.endpoints import Rollout, RolloutState
from core.engines import Role
from core.ports import EventRecorder


def record_events(recorder: EventRecorder, before: Rollout, after: Rollout) -> None:
    """Record the step from one row to the next; nothing if neither state nor share changed."""
    if (before.state, before.share, before.step) == (after.state, after.share, after.step):
        return
    if before.state is RolloutState.DARK and after.state is RolloutState.SHIFTING:
        recorder.record(after.candidate, "Tried", f"candidate of {after.endpoint}: passed its trials")
    reason, message = _said(after)
    recorder.record(after.candidate, reason, message, warning=after.state is RolloutState.ROLLING_BACK)
    if after.state is RolloutState.PROMOTED:
        _take_over(recorder, after)
    elif after.state.ended:
        recorder.mark(after.candidate, after.endpoint, Role.STABLE if after.candidate == after.stable else None)
    else:
        recorder.mark(after.candidate, after.endpoint, Role.CANDIDATE)


def _said(row: Rollout) -> tuple[str, str]:
    why = f": {row.reason}" if row.reason else ""
    words = {
        RolloutState.DARK: ("Dark", f"candidate of {row.endpoint}, without traffic"),
        RolloutState.SHIFTING: ("ShareChanged", f"candidate of {row.endpoint}: {row.share:.0%} of new conversations (step {row.step})"),
        RolloutState.SOAKING: ("Soaking", f"candidate of {row.endpoint}: all new conversations; the old version is kept whole for now"),
        RolloutState.PROMOTED: ("Promoted", f"stable version of {row.endpoint}{why}"),
        RolloutState.ROLLING_BACK: ("RollingBack", f"candidate of {row.endpoint} gets nothing any more{why}"),
        RolloutState.ROLLED_BACK: ("RolledBack", f"no candidate of {row.endpoint} any more{why}"),
        RolloutState.CANCELLED: ("Cancelled", f"no candidate of {row.endpoint} any more{why}"),
    }
    return words[row.state]


def _take_over(recorder: EventRecorder, row: Rollout) -> None:
    recorder.mark(row.candidate, row.endpoint, Role.STABLE)
    if row.stable is not None and row.stable != row.candidate:
        recorder.record(row.stable, "Replaced", f"{row.candidate[:12]} is the stable version of {row.endpoint} now")
        recorder.mark(row.stable, row.endpoint, None)
