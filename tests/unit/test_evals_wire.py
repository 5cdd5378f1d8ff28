"""What travels between judge and cell is data: it comes back equal and of the same type, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.confinement.wire import MAX_LINE_BYTES, NotData, decode, encode

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


@pytest.mark.parametrize("value", [object(), print, type("E", (int,), {})(1), iter([1]), "a" * (MAX_LINE_BYTES + 1)])
def test_what_is_no_plain_data_does_not_travel(value: Any) -> None:
    with pytest.raises(NotData):
        encode(value)


def test_number_of_thousands_of_digits_does_not_travel() -> None:
    with pytest.raises(NotData):
        encode(10**5000)
