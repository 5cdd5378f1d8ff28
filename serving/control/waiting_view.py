"""A reason for waiting as the API shows it, with submissions and with benchmarks."""

from __future__ import annotations

from serving.control.waiting import Wait, Waiting
from serving.control.wire import Text, View


class WaitingView(View):
    """Why nothing drives it now. `stuck`: an operator is needed, for which `hint` names the next command."""

    reason: Wait
    stuck: bool
    message: Text
    hint: Text

    @classmethod
    def of(cls, found: Waiting) -> WaitingView:
        """Show a reason for waiting."""
        return cls(reason=found.reason, stuck=found.reason.stuck, message=found.message, hint=found.hint)
