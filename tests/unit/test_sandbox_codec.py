"""What travels between judge and cell is data: it comes back equal and of the same type, or is refused."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.sandbox.codec import MAX_LINE_BYTES, NotData, decode, encode

PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(PLAIN, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner) | st.sets(HASHABLE, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=12,
)


class Colour(StrEnum):
    RED = "red"


@given(VALUES)
def test_every_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    there = decode(encode(value))
    assert there == value
    assert type(there) is type(value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_no_data(line: bytes) -> None:
    try:
        decode(line)
    except NotData:
        return


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'["eval", "1"]',
        b'["list", 1]',
        b'["set", [["list", []]]]',
        b'["range", [0, 1, 0]]',
        b"[" * 100_000,
        b"\xff",
        b"1 2",
    ],
)
def test_lines_that_bend_the_form_are_no_data(line: bytes) -> None:
    with pytest.raises(NotData):
        decode(line)


class Agreeable(int):
    """Claims to equal everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__

    def __int__(self) -> int:
        return 99


class Shy(list[int]):
    """Shows other items than it holds."""

    def __iter__(self) -> Iterator[int]:
        return iter([99])


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Agreeable(1), 1), (Shy([1, 2]), [1, 2]), (Counter("aab"), {"a": 2, "b": 1}), (OrderedDict(a=1), {"a": 1}), (Colour.RED, "red")],
)
def test_instance_of_a_subclass_travels_as_what_it_holds(value: Any, plain: Any) -> None:
    there = decode(encode(value))
    assert plain == there
    assert type(there) is type(plain)


@pytest.mark.parametrize("value", [object(), print, iter([1]), map(int, "1"), "a" * (MAX_LINE_BYTES + 1)])
def test_what_is_no_plain_data_does_not_travel(value: Any) -> None:
    with pytest.raises(NotData):
        encode(value)


def test_number_of_thousands_of_digits_does_not_travel() -> None:
    with pytest.raises(NotData):
        encode(10**5000)
