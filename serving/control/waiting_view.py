"""A reason for waiting as the API shows it, with submissions and with benchmarks."""

from __future__ import annotations

from core.access import Caller
from core.ids import Epoch
from serving.control.access import is_operator
from serving.control.desk import Desk
from serving.control.waiting import Wait, Waiting
from serving.control.wire import Text, View


class WaitingView(View):
    """Why nothing drives it now. `stuck`: an operator is needed, and `hint` names the next command.

    Only operators get host names, process ids, URLs and the messages of other programs.
    """

    reason: Wait
    stuck: bool
    message: Text
    hint: Text

    @classmethod
    def of(cls, found: Waiting, caller: Caller) -> WaitingView:
        """Show a reason for waiting to a caller."""
        shown = found.for_operators() if is_operator(caller) else found.for_submitters()
        return cls(reason=shown.reason, stuck=shown.reason.stuck, message=shown.message, hint=shown.hint)


def waiting_view(desk: Desk, caller: Caller, flow_run: str | None, lease_until: Epoch) -> WaitingView | None:
    """Show a caller why an open submission or benchmark waits; None while a process drives it."""
    found = desk.waiting(flow_run, lease_until)
    return WaitingView.of(found, caller) if found else None
