"""What every adapter of the Assignments port promises."""

from __future__ import annotations

import pytest

from core.conversations import Assignment
from core.ids import ConversationId, EndpointName, VersionId
from core.ports import Assignments
from serving.gateway.assignments import InProcessAssignments

CAPACITY, IDLE_S = 3, 10.0


@pytest.fixture(params=["in process"])
def assignments() -> Assignments:
    return InProcessAssignments(capacity=CAPACITY, idle_s=IDLE_S)


def assignment(conversation: str, version: str = "one", endpoint: str = "harbour", *, moved: bool = False) -> Assignment:
    return Assignment(ConversationId(conversation), EndpointName(endpoint), VersionId(version), None, False, 0.0, 1.0, moved=moved)


async def test_an_assigned_conversation_keeps_its_version(assignments: Assignments) -> None:
    first = await assignments.place(assignment("c", "one"), 0.0)
    assert await assignments.place(assignment("c", "two"), 1.0) == first


async def test_the_same_conversation_on_two_endpoints_is_two(assignments: Assignments) -> None:
    await assignments.place(assignment("c", "one", "harbour"), 0.0)
    assert (await assignments.place(assignment("c", "two", "quay"), 0.0)).version == "two"


async def test_moving_replaces_for_good(assignments: Assignments) -> None:
    await assignments.place(assignment("c", "one"), 0.0)
    moved = await assignments.move(assignment("c", "two", moved=True), 1.0)
    assert moved.moved
    assert await assignments.place(assignment("c", "three"), 2.0) == moved


async def test_an_idle_conversation_is_forgotten_and_one_in_use_is_not(assignments: Assignments) -> None:
    for name in ("idle", "busy"):
        await assignments.place(assignment(name), 0.0)
    await assignments.place(assignment("busy"), IDLE_S)
    assert (await assignments.place(assignment("busy", "two"), IDLE_S + 1)).version == "one"
    assert not await assignments.known(ConversationId("idle"))
    assert (await assignments.place(assignment("idle", "two"), IDLE_S + 1)).version == "two"


async def test_beyond_capacity_the_longest_unused_goes_first(assignments: Assignments) -> None:
    for name in ("a", "b", "c", "a", "d"):
        await assignments.place(assignment(name), 0.0)
    assert [name for name in "abcd" if await assignments.known(ConversationId(name))] == ["a", "c", "d"]


async def test_restoring_keeps_what_stands_and_takes_the_newest_that_fit(assignments: Assignments) -> None:
    await assignments.place(assignment("a", "stands"), 0.0)
    await assignments.restore([assignment("a", "old"), assignment("new"), assignment("older"), assignment("oldest")], 0.0)
    assert (await assignments.place(assignment("a"), 0.0)).version == "stands"
    assert [name for name in ("new", "older", "oldest") if await assignments.known(ConversationId(name))] == ["new", "older"]
    await assignments.place(assignment("fresh"), 0.0)
    assert not await assignments.known(ConversationId("older"))


async def test_known_follows_every_endpoint_of_a_conversation(assignments: Assignments) -> None:
    assert not await assignments.known(ConversationId("c"))
    await assignments.place(assignment("c", endpoint="harbour"), 0.0)
    await assignments.place(assignment("c", endpoint="quay"), IDLE_S / 2)
    await assignments.place(assignment("other"), IDLE_S + 1)
    assert await assignments.known(ConversationId("c"))
