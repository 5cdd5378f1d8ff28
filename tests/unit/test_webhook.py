"""The webhook against a real HTTP server with faults, on virtual time."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from collections.abc import Iterator

import pytest

from core.errors import Refused, Transient
from core.ports.clock import VirtualClock
from serving.webhook import Webhook
from tests.equipment.receiver import Receiver, receiving

SECRET = "a-shared-secret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def tell(receiver: Receiver, clock: VirtualClock, secret: str = SECRET) -> None:
    Webhook(receiver.url, secret, clock, timeout_s=5.0).tell("bm-1", {"event": "regression", "drop": 0.1})


def test_a_document_arrives_once_and_its_signature_can_be_checked(receiver: Receiver):
    clock = VirtualClock(1_700_000_000.0)
    tell(receiver, clock)
    ((headers, body),) = receiver.got
    assert json.loads(body) == {"drop": 0.1, "event": "regression"}
    assert (headers["Content-Type"], headers["X-Seatrial-Delivery"]) == ("application/json", "bm-1")
    expected = hmac.new(SECRET.encode(), b"1700000000." + body, hashlib.sha256).hexdigest()
    assert headers["X-Seatrial-Signature"] == f"t=1700000000,v1={expected}"


def test_without_a_secret_nothing_is_signed(receiver: Receiver):
    tell(receiver, VirtualClock(), secret="")
    assert "X-Seatrial-Signature" not in receiver.got[0][0]


@pytest.mark.parametrize("statuses", [[500], [503, 429], [0, 502, 408]], ids=str)
def test_a_receiver_that_stumbles_is_told_again_under_the_same_delivery(receiver: Receiver, statuses: list[int]):
    receiver.statuses = list(statuses)
    clock = VirtualClock()
    tell(receiver, clock)
    assert len(receiver.got) == len(statuses) + 1
    assert {headers["X-Seatrial-Delivery"] for headers, _ in receiver.got} == {"bm-1"}
    assert len({body for _, body in receiver.got}) == 1


def test_a_receiver_s_retry_after_is_obeyed_up_to_a_minute(receiver: Receiver):
    receiver.statuses, receiver.headers = [429], {"Retry-After": "99999"}
    clock = VirtualClock()
    begun = clock.monotonic()
    tell(receiver, clock)
    assert clock.monotonic() - begun == pytest.approx(60.0)


def test_a_receiver_that_stays_away_is_transient_and_its_token_is_not_told(receiver: Receiver):
    receiver.statuses = [500] * 9
    with pytest.raises(Transient) as caught:
        tell(receiver, VirtualClock())
    assert len(receiver.got) == 4
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404, 301, 307])
def test_a_receiver_that_refuses_is_not_asked_again(receiver: Receiver, status: int):
    receiver.statuses = [status]
    receiver.headers = {"Location": receiver.url}
    with pytest.raises(Refused, match=str(status)):
        tell(receiver, VirtualClock())
    assert len(receiver.got) == 1


def test_nobody_listening_is_transient():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/s3cret-token"
        with pytest.raises(Transient) as caught:
            Webhook(url, "", VirtualClock(), timeout_s=2.0).tell("bm-1", {})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host/x", "http://[::1"])
def test_what_is_no_url_is_refused_and_names_the_setting(url: str):
    with pytest.raises(Refused, match="WEBHOOK_URL"):
        Webhook(url, "", VirtualClock()).tell("bm-1", {})
