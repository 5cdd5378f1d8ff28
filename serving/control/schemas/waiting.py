"""Reasons for which a submission or a benchmark waits."""

from __future__ import annotations

from core.access import Caller
from serving.control.schemas.base import Text, View
from serving.control.wait_reasons import Waiting, WaitReason


class WaitingView(View):
    """Why nothing drives it now. `stuck`: an operator is needed, and `hint` names the next command.

    Only operators get host names, process ids, URLs and the messages of other programs.
    """

    reason: WaitReason
    stuck: bool
    message: Text
    hint: Text

    @classmethod
    def of(cls, found: Waiting | None, caller: Caller) -> WaitingView | None:
        """Show a reason for waiting to a caller; None for none."""
        if found is None:
            return None
        shown = found.for_operators() if caller.is_operator else found.for_submitters()
        return cls(reason=shown.reason, stuck=shown.reason.stuck, message=shown.message, hint=shown.hint)
