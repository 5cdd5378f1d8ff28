"""The time for which a gateway retries failed connections, and the age at which it closes connections."""

from __future__ import annotations

import pytest

from core.settings import read_settings
from wiring import Platform

CLUSTER = {"HOME": "/nowhere", "SEATRIAL_ENGINES_URL": "kubernetes://models"}


@pytest.mark.parametrize(
    ("environ", "hold_s"),
    [
        ({"HOME": "/nowhere"}, 0.0),
        (CLUSTER, 15.0),
        ({**CLUSTER, "SEATRIAL_KUBERNETES_HOLD_S": "3"}, 3.0),
        ({**CLUSTER, "SEATRIAL_KUBERNETES_MIN_ENGINES": "0"}, 0.0),
    ],
    ids=["on one machine", "on a cluster", "as set", "where engines may sleep"],
)
def test_connections_are_retried_only_where_an_engine_keeps_its_address_and_is_never_scaled_to_zero(
    environ: dict[str, str], hold_s: float
) -> None:
    assert Platform(read_settings(environ)).hold_s == hold_s


@pytest.mark.parametrize(("environ", "reuse_s"), [({"HOME": "/nowhere"}, 300.0), (CLUSTER, 2.5)], ids=["on one machine", "on a cluster"])
def test_connections_expire_before_an_engine_that_left_its_service_is_stopped(environ: dict[str, str], reuse_s: float) -> None:
    assert Platform(read_settings(environ)).reuse_s == reuse_s
