"""A second model that ranks answers, behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from core.errors import Fault, Refused, Transient
from core.ports.clock import Clock, SystemClock
from core.reasons import Reason

_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
_ANSWER_CHARS = 6000
_BACKOFF_S = (0.5, 2.0, 5.0)
_REQUESTS_FAULT = {httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY}
_FOR_A_MOMENT = {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS}
_TASK = "Several programs answer one task. Judge which is most likely correct. Reply with its number only."


class Ranker(Protocol):
    """Chooses among answers. It sees the problem's prompt and the answers, no test and no outcome."""

    def rank(self, prompt: str, candidates: Sequence[str]) -> int:
        """Return the index of the best candidate. Errors: Refused (it will not or cannot say), Transient (away), Fault (our set-up)."""
        ...


class HttpRanker:
    """Asks `model` at `base_url` (OpenAI's base URL, with its `/v1`), greedy, through chat completions. Close it after use.

    An unavailable, overloaded (408, 425, 429) or failing (5xx) server is retried three times, then Transient. Refused: the server rejects
    the request (400, 413, 422) or does not reply with the number of a candidate. Fault: no such model or address (404), a key that it
    rejects (401, 403), anything else. Each candidate is shown up to 6,000 characters.
    """

    def __init__(self, base_url: str, model: str, key: str = "", clock: Clock | None = None) -> None:
        self._model = model
        self._clock = clock or SystemClock()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections. Closing twice does nothing."""
        self._http.close()

    def rank(self, prompt: str, candidates: Sequence[str]) -> int:
        """See the port."""
        shown = "\n\n".join(f"Program {number}:\n{code[:_ANSWER_CHARS]}" for number, code in enumerate(candidates, 1))
        messages = [{"role": "system", "content": _TASK}, {"role": "user", "content": f"Task:\n{prompt}\n\n{shown}\n\nNumber:"}]
        reply = self._ask({"model": self._model, "messages": messages, "temperature": 0, "max_tokens": 8})
        number = re.search(r"\d+", reply)
        if number is None or not 1 <= int(number.group()[:9]) <= len(candidates):
            raise Refused(f"the ranker {self._model} names none of {len(candidates)} programs", reason=Reason.RANKER_UNCLEAR)
        return int(number.group()) - 1

    def _ask(self, body: dict[str, Any]) -> str:
        for wait_s in _BACKOFF_S:
            try:
                return self._once(body)
            except Transient as error:
                self._clock.wait(error.retry_after_s or wait_s)
        return self._once(body)

    def _once(self, body: dict[str, Any]) -> str:
        try:
            response = self._http.post("chat/completions", json=body)
        except httpx.TransportError as error:
            raise Transient(f"the ranker {self._model} does not answer: {type(error).__name__}") from error
        self._raise_for(response.status_code)
        try:
            return str(response.json()["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Fault(
                f"the ranker {self._model} sends no chat completion", hint="give an OpenAI-compatible base URL, with its /v1"
            ) from error

    def _raise_for(self, status: int) -> None:
        if status == httpx.codes.OK:
            return
        what = f"the ranker {self._model} answers {status}"
        if status in _FOR_A_MOMENT or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise Transient(what)
        if status in _REQUESTS_FAULT:
            raise Refused(what, reason=Reason.RANKER_REFUSED, hint="fewer or shorter answers may fit its context")
        raise Fault(what, hint="check the ranker's base URL (with its /v1), its model and its key")
