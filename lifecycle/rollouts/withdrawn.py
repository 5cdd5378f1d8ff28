"""How a rollout that was not promoted ends its submission."""

from __future__ import annotations

from core.endpoints import Rollout, RolloutState, Withdrawal
from core.errors import Refused
from core.ids import RolloutId
from core.ports import Records
from core.reasons import Reason
from lifecycle.rollouts.precedence import superseded

_WITHDRAWN = frozenset({RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, RolloutState.CANCELLED})


def expect_wanted(records: Records, rollout: RolloutId) -> None:
    """Raise Refused when the rollout was withdrawn meanwhile: by its verdict, an operator, a newer submission or its deadline."""
    row = records.rollouts.get(rollout)
    if row.state in _WITHDRAWN:
        raise withdrawn(row)


def withdrawn(row: Rollout) -> Refused:
    """Return the error that ends the rollout's submission: withdrawn if no user had met the candidate, superseded, or rolled back."""
    if row.withdrawal is Withdrawal.SUPERSEDED:
        return superseded(row.reason)
    if row.step == 0:
        return Refused(f"the rollout was withdrawn: {row.reason}", reason=Reason.WITHDRAWN, hint="submit again when it is still wanted")
    return Refused(f"rolled back: {row.reason}", reason=Reason.ROLLED_BACK, hint="see `seatrial rollouts` for the numbers")
