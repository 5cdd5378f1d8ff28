"""The version that answers a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from core.access import Caller, Role
from core.conversations import Assignment
from core.endpoints import Route, Target
from core.ids import ConversationId, EndpointName, Epoch, PrincipalId
from core.ports import Assignments
from core.reasons import Reason
from serving.gateway.responses import unavailable

SYNTHETIC_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Placement:
    """A conversation's assignment and the target that answers it. The target's address is None while its engine is unavailable."""

    assignment: Assignment
    target: Target


def conversation_id(principal: PrincipalId, endpoint: EndpointName, key: str) -> ConversationId:
    """Return the conversation's id. `key` is the client's; two principals that use the same key have different conversations."""
    digest = blake2b(f"{principal}\0{endpoint}\0{key}".encode(), digest_size=16)
    return ConversationId(f"conv-{digest.hexdigest()}")


def draw(salt: str, conversation: ConversationId) -> float:
    """Return a number in [0, 1): deterministic in salt and conversation, uniformly distributed over conversations."""
    digest = blake2b(conversation.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest())
    return int.from_bytes(digest.digest(), "big") / 2**64


def is_synthetic(caller: Caller, flag: bytes | None) -> bool:
    """Whether the request is the rollout's own. The flag is valid only with an operator's key and otherwise ignored."""
    return flag == b"1" and caller.role is Role.OPERATOR


async def assign(assignments: Assignments, route: Route, conversation: ConversationId, now: Epoch, *, synthetic: bool) -> Placement:
    """Return the version that answers this conversation; assign one to a new conversation.

    A conversation keeps its version while the route contains it, whether or not its engine is ready. When the version was withdrawn
    (not in the route, or a candidate past its deadline), the conversation moves to stable and is marked as moved. Rejected (503)
    when no version is available.
    """
    proposal = _propose(route, conversation, now, synthetic=synthetic)
    current = proposal if proposal is None else await assignments.place(proposal, now)
    if current is None:
        raise _no_version(route)
    target = _target(route, current, now)
    if target is not None:
        return Placement(current, target)
    if route.stable is None:
        raise _no_version(route)
    moved = Assignment(
        conversation, route.endpoint, route.stable.version, None, candidate=False, share=0.0, assigned_at=now,
        synthetic=current.synthetic, moved=True,
    )  # fmt: skip
    return Placement(await assignments.move(moved, now), route.stable)


def _propose(route: Route, conversation: ConversationId, now: Epoch, *, synthetic: bool) -> Assignment | None:
    share = _share(route, now, synthetic=synthetic)
    salt = route.rollout or (route.candidate.version if route.candidate else "")
    to_candidate = share > 0.0 and draw(salt, conversation) < share
    target = route.candidate if to_candidate else route.stable
    if target is None:
        return None
    return Assignment(conversation, route.endpoint, target.version, route.rollout, to_candidate, share, now, synthetic)


def _share(route: Route, now: Epoch, *, synthetic: bool) -> float:
    """Return the probability that a new conversation is assigned to the candidate.

    It is 0 while the candidate's engine is unavailable, and 1 if the candidate has a share and there is no stable version.
    """
    share = route.share_at(now)
    if share <= 0.0 or route.candidate is None or route.candidate.address is None:
        return 0.0
    if route.stable is None:
        return 1.0
    return max(share, SYNTHETIC_SHARE) if synthetic else share


def _target(route: Route, current: Assignment, now: Epoch) -> Target | None:
    if route.stable is not None and route.stable.version == current.version:
        return route.stable
    expired = route.deadline is not None and now > route.deadline
    if route.candidate is not None and route.candidate.version == current.version and not expired:
        return route.candidate
    return None


def _no_version(route: Route) -> Exception:
    return unavailable(f"{route.endpoint}: no version serves yet", reason=Reason.MODEL_NOT_READY, retry_after_s=5)
