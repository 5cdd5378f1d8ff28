"""The safetensors header is read with nothing taken on trust."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from evals.checks.header import MAX_HEADER_BYTES, BadHeader, header_length, parse_header

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "F99"]) | JSON,
        "shape": st.lists(st.integers(-2, 2**65), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-2, 2**65), max_size=3) | JSON,
    }
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_bad_header(raw: bytes) -> None:
    try:
        parse_header(raw)
    except BadHeader:
        return


@given(st.dictionaries(st.text(max_size=8), ENTRY | JSON, max_size=5))
def test_whatever_is_accepted_fills_its_bytes_without_hole_or_overlap(document: dict[str, Any]) -> None:
    try:
        header = parse_header(json.dumps(document).encode())
    except BadHeader:
        return
    end = 0
    for tensor in header.tensors:
        assert tensor.begin == end
        assert tensor.end >= tensor.begin
        end = tensor.end
    assert end == header.data_bytes


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_]), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_what_the_safetensors_library_writes_is_read(tensors: dict[str, Any]) -> None:
    raw = save({name: np.zeros(shape, dtype) for name, (dtype, shape) in tensors.items()})
    length = header_length(raw)
    header = parse_header(raw[8 : 8 + length])
    assert {tensor.name: list(tensor.shape) for tensor in header.tensors} == {name: shape for name, (_, shape) in tensors.items()}
    assert header.data_bytes == len(raw) - 8 - length


@pytest.mark.parametrize("prefix", [b"", b"\0" * 7, (0).to_bytes(8, "little"), (MAX_HEADER_BYTES + 1).to_bytes(8, "little"), b"\xff" * 8])
def test_lengths_outside_the_bounds_are_refused(prefix: bytes) -> None:
    with pytest.raises(BadHeader):
        header_length(prefix)


def test_largest_length_is_taken() -> None:
    assert header_length(MAX_HEADER_BYTES.to_bytes(8, "little")) == MAX_HEADER_BYTES


@pytest.mark.parametrize(
    "text",
    [
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        '{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}',
        '{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[0,281474976710656,281474976710656],"data_offsets":[0,0]}}',
        '{"' + "a" * 1025 + '":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        '{"__metadata__":{"format":"pt"}}',
        "[" * 100_000,
        "1" * 5000,
    ],
)
def test_headers_that_bend_the_format_are_refused(text: str) -> None:
    with pytest.raises(BadHeader):
        parse_header(text.encode())
