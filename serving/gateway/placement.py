"""Which version answers a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from core.access import Caller, Role
from core.conversations import Assignment
from core.endpoints import Route, Target
from core.ids import ConversationId, EndpointName, Epoch, PrincipalId
from core.ports import Assignments
from serving.gateway.responses import unavailable

SYNTHETIC_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Placed:
    """A conversation with its version and the address of that version's engine (None: unavailable)."""

    assignment: Assignment
    target: Target


def conversation_id(principal: PrincipalId, endpoint: EndpointName, word: str) -> ConversationId:
    """Return the conversation's own id. `word` is the client's name for it: two principals that use the same word never meet."""
    digest = blake2b(f"{principal}\0{endpoint}\0{word}".encode(), digest_size=16)
    return ConversationId(f"conv-{digest.hexdigest()}")


def draw(salt: str, conversation: ConversationId) -> float:
    """Return the conversation's place in [0, 1): the same for the same salt, evenly spread over conversations."""
    digest = blake2b(conversation.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest())
    return int.from_bytes(digest.digest(), "big") / 2**64


def is_synthetic(caller: Caller, flag: bytes | None) -> bool:
    """Whether the rollout itself asks. Only an operator's key may say so; from others the flag is ignored."""
    return flag == b"1" and caller.role is Role.OPERATOR


async def place(assignments: Assignments, route: Route, conversation: ConversationId, now: Epoch, *, synthetic: bool) -> Placed:
    """Return the version that answers this conversation, assigning it when it is new.

    An assigned one keeps its version, ready or not, while the route has it; when it was withdrawn (gone from the route, or a
    candidate past its deadline) it moves to stable, marked. Rejected (503) when there is no version to give.
    """
    proposal = _propose(route, conversation, now, synthetic=synthetic)
    standing = proposal if proposal is None else await assignments.place(proposal, now)
    if standing is None:
        raise _nobody(route)
    target = _target(route, standing, now)
    if target is not None:
        return Placed(standing, target)
    if route.stable is None:
        raise _nobody(route)
    moved = Assignment(
        conversation, route.endpoint, route.stable.version, None, candidate=False, share=0.0, assigned_at=now,
        synthetic=standing.synthetic, moved=True,
    )  # fmt: skip
    return Placed(await assignments.move(moved, now), route.stable)


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

    0 while its engine is unavailable: stable takes the new ones. 1 where it has a share and there is no stable version to share with.
    """
    share = route.share_at(now)
    if share <= 0.0 or route.candidate is None or route.candidate.address is None:
        return 0.0
    if route.stable is None:
        return 1.0
    return max(share, SYNTHETIC_SHARE) if synthetic else share


def _target(route: Route, standing: Assignment, now: Epoch) -> Target | None:
    if route.stable is not None and route.stable.version == standing.version:
        return route.stable
    expired = route.deadline is not None and now > route.deadline
    if route.candidate is not None and route.candidate.version == standing.version and not expired:
        return route.candidate
    return None


def _nobody(route: Route) -> Exception:
    return unavailable(f"{route.endpoint}: no version serves yet", reason="model_not_ready", retry_after_s=5)
