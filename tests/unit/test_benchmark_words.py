"""Grids as people write them."""

from __future__ import annotations

import pytest

from core.benchmarks import Sampling, grid_of, numbers_of
from core.errors import Refused


def test_a_grid_is_every_temperature_with_every_penalty_each_once():
    grid = grid_of(numbers_of("0.2, 0.8,0.2"), numbers_of("0,0.5"))
    assert grid == tuple(Sampling(t, f, max_tokens=0) for t in (0.2, 0.8) for f in (0.0, 0.5))


@pytest.mark.parametrize("text", ["x", "0.2;0.3", "0,2,x"])
def test_what_is_no_list_of_numbers_is_refused(text: str):
    with pytest.raises(Refused, match="numbers"):
        numbers_of(text)


@pytest.mark.parametrize(
    ("temperatures", "penalties", "more"),
    [((2.1,), (0.0,), {}), ((float("nan"),), (0.0,), {}), ((0.0,), (-3.0,), {}), ((), (0.0,), {}), ((0.0,), (), {}),
     (tuple(i / 100 for i in range(65)), (0.0,), {}), ((0.0,), (0.0,), {"top_p": 0.0}), ((0.0,), (0.0,), {"max_tokens": -1})],
)  # fmt: skip
def test_a_grid_that_no_engine_takes_is_refused(temperatures: tuple[float, ...], penalties: tuple[float, ...], more: dict[str, int]):
    with pytest.raises(Refused):
        grid_of(temperatures, penalties, **more)
