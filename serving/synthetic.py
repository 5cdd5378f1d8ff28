"""Synthetic conversations that the rollout adds when users bring too few."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from core.ids import EndpointName, new_id

_TIMEOUT_S = 120.0
_MAX_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a batch of conversations."""

    held: int
    broken: int


def hold_conversations(gateway_url: str, key: str, endpoint: EndpointName, openings: Sequence[Sequence[str]], *, at_once: int = 4) -> Tally:
    """Hold one conversation per opening through the gateway, as a user would, and return how many went through.

    They are marked synthetic (only an operator's key may) and drawn half and half, so that both cohorts grow. A conversation that
    breaks is counted, not raised: its error is in the ledger, where the verdict reads it.
    """
    with (
        httpx.Client(base_url=gateway_url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S) as client,
        ThreadPoolExecutor(at_once) as pool,
    ):
        went_well = list(pool.map(lambda turns: _converse(client, endpoint, turns), openings))
    return Tally(held=sum(went_well), broken=len(went_well) - sum(went_well))


def _converse(client: httpx.Client, endpoint: EndpointName, turns: Sequence[str]) -> bool:
    headers = {"X-Seatrial-Synthetic": "1", "X-Seatrial-Conversation": new_id("syn")}
    messages: list[dict[str, str]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        body = {"model": endpoint, "messages": messages, "max_tokens": _MAX_TOKENS, "temperature": 0.7}
        try:
            response = client.post("/v1/chat/completions", json=body, headers=headers)
        except httpx.TransportError:
            return False
        if response.status_code != httpx.codes.OK:
            return False
        messages.append({"role": "assistant", "content": response.json()["choices"][0]["message"]["content"] or ""})
    return True
