"""The version that a conversation gets: shares, stickiness, withdrawal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import ConversationId, EndpointName, PrincipalId
from serving.gateway.assignments import InProcessAssignments
from serving.gateway.placement import Placement, assign, conversation_id, draw
from serving.gateway.requests import Kind, conversation_key, parse_completion_request
from serving.gateway.responses import Rejected
from tests.equipment.gateway_doubles import CANDIDATE, STABLE, route

UP, DOWN = "http://127.0.0.1:1", ""


async def placed(assignments: InProcessAssignments, found: Any, name: str = "c", now: float = 0.0, *, synthetic: bool = False) -> Placement:
    return await assign(assignments, found, ConversationId(name), now, synthetic=synthetic)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
async def test_the_candidate_gets_its_share_of_new_conversations(share: float) -> None:
    assignments, found = InProcessAssignments(), route(UP, UP, share=share)
    got = [await placed(assignments, found, f"c{number}") for number in range(4000)]
    part = sum(one.assignment.candidate for one in got) / len(got)
    assert abs(part - share) < 4 * (share * (1 - share) / len(got)) ** 0.5
    assert {one.assignment.share for one in got} == {share}


def test_a_new_rollout_assigns_independently_of_the_last_one() -> None:
    names = [ConversationId(f"c{number}") for number in range(2000)]
    first = {name for name in names if draw("roll-1", name) < 0.5}
    again = {name for name in names if draw("roll-2", name) < 0.5}
    assert 400 < len(first & again) < 600


async def test_a_larger_share_only_adds_conversations_to_the_candidate() -> None:
    names = [f"c{number}" for number in range(500)]
    few = {name for name in names if (await placed(InProcessAssignments(), route(UP, UP, share=0.05), name)).assignment.candidate}
    many = {name for name in names if (await placed(InProcessAssignments(), route(UP, UP, share=0.25), name)).assignment.candidate}
    assert few < many


@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=6), name=st.text(min_size=1))
async def test_a_conversation_keeps_its_version_while_the_route_has_it(shares: list[float], name: str) -> None:
    assignments = InProcessAssignments()
    got = {(await placed(assignments, route(UP, UP, share=share), repr(name))).assignment.version for share in shares}
    assert len(got) == 1


async def test_promotion_moves_only_the_old_stables_conversations() -> None:
    assignments = InProcessAssignments()
    await placed(assignments, route(UP), "old")
    await placed(assignments, route(UP, UP, share=1.0), "new")
    promoted = route(UP)
    promoted = type(promoted)(promoted.endpoint, route(UP, UP).candidate)
    new, old = await placed(assignments, promoted, "new"), await placed(assignments, promoted, "old")
    assert (new.assignment.version, new.assignment.moved) == (CANDIDATE, False)
    assert (old.assignment.version, old.assignment.moved) == (CANDIDATE, True)


async def test_past_its_deadline_the_candidate_counts_as_withdrawn() -> None:
    assignments, found = InProcessAssignments(), route(UP, UP, share=1.0, deadline=10.0)
    assert (await placed(assignments, found, now=10.0)).assignment.version == CANDIDATE
    late = await placed(assignments, found, now=10.5)
    assert (late.assignment.version, late.assignment.moved) == (STABLE, True)
    assert (await placed(assignments, found, "fresh", now=10.5)).assignment.moved is False


async def test_while_the_candidate_is_unavailable_stable_gets_the_new_conversations_and_the_candidates_own_keep_it() -> None:
    assignments = InProcessAssignments()
    await placed(assignments, route(UP, UP, share=1.0), "own")
    unavailable = route(UP, DOWN, share=1.0)
    own, new = await placed(assignments, unavailable, "own"), await placed(assignments, unavailable, "new")
    assert (own.assignment.version, own.target.address) == (CANDIDATE, None)
    assert (new.assignment.version, new.assignment.share) == (STABLE, 0.0)


async def test_a_dark_candidate_gets_no_conversation_not_even_a_synthetic_one() -> None:
    for synthetic in (False, True):
        got = await placed(InProcessAssignments(), route(UP, UP, share=0.0), synthetic=synthetic)
        assert got.assignment.version == STABLE


async def test_half_of_the_synthetic_conversations_go_to_the_candidate() -> None:
    assignments = InProcessAssignments()
    got = [await placed(assignments, route(UP, UP, share=0.01), f"c{number}", synthetic=True) for number in range(1000)]
    assert 430 < sum(one.assignment.candidate for one in got) < 570
    assert {(one.assignment.share, one.assignment.synthetic) for one in got} == {(0.5, True)}


async def test_a_first_version_with_a_share_gets_every_conversation() -> None:
    got = await placed(InProcessAssignments(), route(None, UP, share=0.05))
    assert (got.assignment.version, got.assignment.share) == (CANDIDATE, 1.0)


@pytest.mark.parametrize("found", [route(None), route(None, UP, share=0.0), route(None, DOWN, share=1.0)])
async def test_without_a_version_there_is_a_503(found: Any) -> None:
    with pytest.raises(Rejected) as caught:
        await placed(InProcessAssignments(), found)
    assert (caught.value.status, caught.value.reason) == (503, "model_not_ready")


def test_the_same_key_of_two_principals_is_two_conversations() -> None:
    harbour = EndpointName("harbour")
    assert conversation_id(PrincipalId("a"), harbour, "x") != conversation_id(PrincipalId("b"), harbour, "x")


def chat(*messages: tuple[str, object], **fields: object) -> str:
    import json  # noqa: PLC0415

    body = {"model": "harbour", "messages": [{"role": role, "content": content} for role, content in messages], **fields}
    return conversation_key(None, parse_completion_request(Kind.CHAT, json.dumps(body).encode()))


def test_a_chat_is_identified_by_its_beginning() -> None:
    start = (("system", "be kind"), ("user", "hi"))
    assert chat(*start) == chat(*start, ("assistant", "hello"), ("user", "more"), temperature=0.5)
    assert chat(*start) != chat(("system", "be rude"), ("user", "hi"))
    assert chat(*start) != chat(("system", "be kind"), ("user", "ho"))
    assert chat(*start) != chat(*start, user="somebody")


def test_plain_completions_are_conversations_of_their_own() -> None:
    request = parse_completion_request(Kind.TEXT, b'{"model":"harbour","prompt":"hi"}')
    assert conversation_key(None, request) != conversation_key(None, request)
    assert conversation_key(b"mine", request) == "mine"
