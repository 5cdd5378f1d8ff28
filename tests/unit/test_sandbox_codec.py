"""What travels between judge and cell is data: it comes back equal and of the same type, or is refused."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, NamedTuple

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


class Pair(NamedTuple):
    left: int
    right: int


class Digits(bytes):
    pass


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
        "[1]".encode("utf-16"),
        b"\xef\xbb\xbf1",
        b'["complex", [' + b"9" * 400 + b", 0]]",
        b'["Fraction", [1, 0]]',
        b'["Decimal", ["x"]]',
        b'["Counter", [1]]',
        b'["defaultdict", [[], 1]]',
        b'["deque", [1, 2]]',
        b'["lent", 0]',
        b'["int", 1]',
        b'["keys", [["list", []]]]',
        b"9" * 5000,
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
    [(Agreeable(1), 1), (Shy([1, 2]), [1, 2]), (Pair(1, 2), (1, 2)), (Colour.RED, "red"), (Digits(b"1"), b"1")],
    ids=["int", "list", "tuple", "enum", "bytes"],
)
def test_instance_of_a_subclass_travels_as_what_it_holds(value: Any, plain: Any) -> None:
    there = decode(encode(value))
    assert plain == there
    assert type(there) is type(plain)


@pytest.mark.parametrize("value", [object(), print, [object()], "a" * (MAX_LINE_BYTES + 1)])
def test_what_is_no_plain_data_does_not_travel(value: Any) -> None:
    with pytest.raises(NotData):
        encode(value)


@pytest.mark.parametrize(
    "value",
    [
        *(10**5000, -(10**5000), Fraction(1, 3), Fraction(10**5000, 7), Decimal("1.10"), Decimal("-0"), range(10**30), deque([1], 2)),
        *(Counter("aab"), OrderedDict(b=1, a=2), defaultdict(list, a=[1]), {"a": 1}.keys(), {"a": [1]}.items(), {1: Fraction(1, 2)}),
    ],
    ids=[  # the digits of a long integer cannot be shown
        *("long integer", "negative long integer", "fraction", "long fraction", "decimal", "negative zero", "range", "deque"),
        *("counter", "ordered dict", "default dict", "keys", "items", "fraction by key"),
    ],
)
def test_value_of_the_standard_library_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    there = decode(encode(value))
    assert there == value
    assert type(there) is type(value)


def test_iterator_is_lent_under_a_number_or_travels_as_its_items() -> None:
    lent: list[Iterator[Any]] = []
    line = encode([map(int, "12")], lambda values: lent.append(values) or 0)  # type: ignore[func-returns-value]
    assert list(decode(line, lambda number: lent[number])[0]) == [1, 2]
    assert list(decode(encode(map(int, "12")))) == [1, 2]
    with pytest.raises(NotData):
        decode(line)
