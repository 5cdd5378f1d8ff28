"""What a rollout does, told where people look at engines: events and labels beside them."""

from __future__ import annotations

from core.endpoints import Rollout, RolloutState
from core.engines import Role
from core.ports import Noticeboard


def narrate(board: Noticeboard, before: Rollout, after: Rollout) -> None:
    """Tell the step from one row to the next; nothing where neither state nor share changed."""
    if (before.state, before.share, before.step) == (after.state, after.share, after.step):
        return
    if before.state is RolloutState.DARK and after.state is RolloutState.SHIFTING:
        board.tell(after.candidate, "Tried", f"candidate of {after.endpoint}: passed its trials")
    reason, message = _said(after)
    board.tell(after.candidate, reason, message, warning=after.state is RolloutState.ROLLING_BACK)
    if after.state is RolloutState.PROMOTED:
        _take_over(board, after)
    elif after.state.ended:
        board.mark(after.candidate, after.endpoint, Role.STABLE if after.candidate == after.stable else None)
    else:
        board.mark(after.candidate, after.endpoint, Role.CANDIDATE)


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


def _take_over(board: Noticeboard, row: Rollout) -> None:
    board.mark(row.candidate, row.endpoint, Role.STABLE)
    if row.stable is not None and row.stable != row.candidate:
        board.tell(row.stable, "Replaced", f"{row.candidate[:12]} is the stable version of {row.endpoint} now")
        board.mark(row.stable, row.endpoint, None)
