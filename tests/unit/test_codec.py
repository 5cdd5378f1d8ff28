"""registry/codec: dataclasses through JSON and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.access import Key
from core.conversations import Assignment, Completion, Feedback
from core.endpoints import Rollout, Verdict
from core.versions import Decision, ModelVersion
from registry.codec import plain, restore
from tests.equipment.samples import a_completion, a_key, a_rollout, a_version, a_vote, an_assignment


@pytest.mark.parametrize("record", [a_version(), a_key(), a_rollout(verdict=Verdict(Decision.FAIL, "worse")), an_assignment(), a_vote()])
def test_a_record_comes_back_equal(record: ModelVersion | Key | Rollout | Assignment | Feedback) -> None:
    assert restore(type(record), json.loads(json.dumps(plain(record)))) == record


@given(st.builds(Completion))
def test_any_completion_comes_back_equal(completion: Completion) -> None:
    assert restore(Completion, plain(completion)) == completion or "nan" in repr(completion)


def test_fields_that_are_new_get_their_defaults_and_unknown_ones_are_ignored() -> None:
    old = plain(a_vote()) | {"of_the_future": 1}
    del old["counted"]
    assert restore(Feedback, old) == a_vote()


@pytest.mark.parametrize("change", [{"status": "200"}, {"outcome": "grand"}, {"usage": [1]}, {"looped": 1}, {"status": True}, {"id": None}])
def test_what_is_no_record_is_a_plain_error(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        restore(Completion, plain(a_completion()) | change)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="without conversation"):
        restore(Completion, {name: value for name, value in plain(a_completion()).items() if name != "conversation"})
