"""Asks one engine through its OpenAI API. For trials; the gateway has its own, faster way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import httpx

from core.benchmarks import Sampling
from core.errors import Fault, Refused, Transient
from core.ids import VersionId
from core.ports.clock import Clock, SystemClock
from core.reasons import Reason

_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
ENOUGH = "enough"
"""The finish reason of an answer that was long enough for its caller before the engine ended it."""
_STOPS_A_REQUEST = 4
"""Stop strings of one request: OpenAI's API takes so many, and so does vLLM (0.32 answers 400 to more)."""
_WHOLE_TIMEOUT = httpx.Timeout(600.0, connect=5.0)  # a long answer of a busy engine comes in one piece
_CONNECTIONS = 64
_LISTED = 20
"""Most probable tokens of a position: vLLM lists this number by default."""
_REQUESTS_FAULT = {httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY}
_FOR_A_MOMENT = {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer. `ttft_s` is the time to the first piece of text (to the end where there was none); tokens as the engine counted."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    ttft_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """One whole answer with what the engine says of it. `mean_logprob` of its tokens (natural logarithm), None where it told none."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    seconds: float
    mean_logprob: float | None


@dataclass(frozen=True, slots=True)
class Scored:
    """A given text's tokens as the engine sees them: where each begins (characters), its log-probability, whether greedy would take it."""

    offsets: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    greedy: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Continued:
    """A prompt that was read and continued greedily: the most probable tokens, by id with their log-probabilities, at every position.

    `prompt[0]` is empty: nothing comes before the first token. `generated` belongs to `tokens`.
    """

    prompt: tuple[Mapping[int, float], ...]
    tokens: tuple[int, ...]
    generated: tuple[Mapping[int, float], ...]


class EngineClient:
    """A client to the engine at `address` (`http://host:port`) that serves `version` under its id. Thread-safe; close it after use.

    Errors: Transient when the engine is unavailable, overloaded (408, 425, 429) or failing (5xx), or cuts its answer; Refused when it
    rejects the request (400, 413, 422: the prompt is too long); Fault when it does not serve the version (404) or answers anything else
    (it requires a key, it redirects): the set-up is at fault, and this never counts against a model.
    """

    def __init__(self, address: str, version: VersionId, clock: Clock | None = None) -> None:
        self._version = version
        self._clock = clock or SystemClock()
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        self._http = httpx.Client(base_url=address, timeout=_TIMEOUT, limits=limits, trust_env=False)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections. Closing twice does nothing."""
        self._http.close()

    def complete(
        self, prompt: str, *, max_tokens: int, stop: Sequence[str] = (), temperature: float = 0.0, seed: int | None = 0
    ) -> Generated:
        """Continue `prompt`, sent raw."""
        body = {"prompt": prompt, "max_tokens": max_tokens, "stop": list(stop), "temperature": temperature, "seed": seed}
        return self._generate("/v1/completions", body)

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = 0,
    ) -> Generated:
        """Answer a conversation, through the model's chat template."""
        body = {"messages": list(messages), "max_tokens": max_tokens, "stop": list(stop), "temperature": temperature, "seed": seed}
        return self._generate("/v1/chat/completions", body)

    def chat_by_defaults(self, messages: Sequence[Mapping[str, str]], *, enough: int) -> Generated:
        """Answer a conversation with the engine's defaults of length and sampling, which generation_config.json may set.

        Reading ends after `enough` pieces of text (each at least one token); the finish reason is then `ENOUGH`.
        """
        return self._generate("/v1/chat/completions", {"messages": list(messages)}, enough)

    def answer(self, asked: str | Sequence[Mapping[str, str]], sampling: Sampling, *, stops: Sequence[str] = (), seed: int = 0) -> Answered:
        """Return the whole answer to a text (continued raw) or a conversation, with the mean log-probability of its tokens.

        In one piece: a benchmark has many answers under way, and events would cost the engine more than the answers are early by.
        """
        how: dict[str, Any] = {
            "temperature": sampling.temperature,
            "frequency_penalty": sampling.frequency_penalty,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        if stops:
            how["stop"] = list(stops[:_STOPS_A_REQUEST])
        begin = self._clock.monotonic()
        if isinstance(asked, str):
            document = self._post("/v1/completions", {"prompt": asked, "logprobs": 0, **how})
        else:
            document = self._post("/v1/chat/completions", {"messages": list(asked), "logprobs": True, **how})
        return _cut(_answered(document, self._clock.monotonic() - begin), stops[_STOPS_A_REQUEST:])

    def score(self, text: str) -> Scored:
        """Return how likely each token of `text` is to the engine."""
        body = {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0.0}
        return _scored(self._post("/v1/completions", body), len(text))

    def answer_logprobs(self, asked: str | Sequence[Mapping[str, str]], answer: str, asked_tokens: int = 0) -> tuple[float, ...]:
        """Return the log-probability (nats) of each token of `answer` after `asked`: a text, or a conversation through the chat template.

        The answer's tokens are those after the first `asked_tokens`, the length of the question alone as the engine counts it (`Answered`);
        0: unknown, one more request asks for it. A token that spans the end of the question counts as the question's. Only one token is
        generated. Also Refused where the template cannot leave an answer open.
        """
        before = asked_tokens or self._prompt_tokens(asked)
        how = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        if isinstance(asked, str):
            return _read(self._post("/v1/completions", {"prompt": asked + answer, **how}), before)
        messages = [*asked, {"role": "assistant", "content": answer}]
        open_end = {"add_generation_prompt": False, "continue_final_message": True}
        return _read(self._post("/v1/chat/completions", {"messages": messages, **open_end, **how}), before)

    def context(self) -> int:
        """Return how many tokens a prompt and its answer may have."""
        try:
            response = self._http.get("/v1/models")
        except httpx.TransportError as error:
            raise Transient(f"the engine of {self._version[:12]} does not answer: {type(error).__name__}: {error}") from error
        self._raise_for(response)
        try:
            return int(response.json()["data"][0]["max_model_len"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Transient(f"the engine of {self._version[:12]} does not state its context: {error}") from error

    def distributions(self, tokens: Sequence[int], max_tokens: int) -> Continued:
        """Read a prompt of token ids and continue it greedily by `max_tokens`, without the model's own sampling defaults."""
        plain = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
        shown = {"prompt_logprobs": _LISTED, "logprobs": _LISTED, "return_tokens_as_token_ids": True, "return_token_ids": True}
        return _continued(self._post("/v1/completions", {"prompt": list(tokens), "max_tokens": max_tokens, **plain, **shown}))

    def _prompt_tokens(self, asked: str | Sequence[Mapping[str, str]]) -> int:
        return self.answer(asked, Sampling(max_tokens=1)).prompt_tokens

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            response = self._http.post(path, json={**body, "model": self._version}, timeout=_WHOLE_TIMEOUT)
        except httpx.TransportError as error:
            raise Transient(f"the engine of {self._version[:12]} does not answer: {type(error).__name__}: {error}") from error
        self._raise_for(response)
        try:
            document = response.json()
        except ValueError as error:
            raise Transient(f"the engine of {self._version[:12]} returned invalid JSON") from error
        if not isinstance(document, dict):
            raise Transient(f"the engine of {self._version[:12]} returned JSON that is not an object")
        return document

    def _generate(self, path: str, body: dict[str, Any], enough: int | None = None) -> Generated:
        begin = self._clock.monotonic()
        asked = {**body, "model": self._version, "stream": True, "stream_options": {"include_usage": True}}
        answer = _Answer()
        try:
            with self._http.stream("POST", path, json=asked) as response:
                self._raise_for(response)
                for event in _events(response):
                    if answer.take(event) and answer.first_at is None:
                        answer.first_at = self._clock.monotonic()
                    if enough is not None and answer.stop_at(enough):
                        break
        except httpx.TransportError as error:
            raise Transient(f"the engine of {self._version[:12]} does not answer: {type(error).__name__}: {error}") from error
        end = self._clock.monotonic()
        first = end if answer.first_at is None else answer.first_at
        return answer.generated(ttft_s=first - begin, seconds=end - begin)

    def _raise_for(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.OK:
            return
        said = _said(response.read())
        what = f"the engine of {self._version[:12]} answers {status}: {said}"
        if status in _FOR_A_MOMENT or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            delay = response.headers.get("Retry-After", "")
            raise Transient(what, retry_after_s=float(delay) if delay.isdecimal() else None)
        if status == httpx.codes.NOT_FOUND:
            raise Fault(what, hint="the engine serves another version than it was started for")
        if status in _REQUESTS_FAULT:
            raise Refused(what, reason=Reason.ENGINE_REFUSED, hint="ask for less")
        raise Fault(what, hint="look at what listens at the engine's address and at the flags it was started with")


class _Answer:
    """An answer as its events come in."""

    def __init__(self) -> None:
        self.first_at: float | None = None
        self._pieces: list[str] = []
        self._finish: str | None = None
        self._usage: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take one event in; return whether it brought text. Raises Transient for an error in mid-stream."""
        if "error" in event:
            raise Transient(f"the engine breaks off its answer: {str(event['error'])[:200]}")
        self._usage = event.get("usage") or self._usage
        brought = False
        for choice in event.get("choices", ()):
            piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            self._finish = choice.get("finish_reason") or self._finish
            self._pieces.append(piece)
            brought = brought or bool(piece)
        return brought

    def stop_at(self, enough: int) -> bool:
        """Return whether `enough` pieces of text have come, and end the answer there."""
        count = sum(map(bool, self._pieces))
        if count < enough:
            return False
        self._finish, self._usage = ENOUGH, {"completion_tokens": count}
        return True

    def generated(self, *, ttft_s: float, seconds: float) -> Generated:
        """Return the whole answer. Raises Transient when it has no end."""
        if self._finish is None:
            raise Transient("the engine's answer ends before its end")
        prompt, completion = int(self._usage.get("prompt_tokens", 0)), int(self._usage.get("completion_tokens", 0))
        return Generated("".join(self._pieces), prompt, completion, self._finish, ttft_s, seconds)


def _answered(document: Mapping[str, Any], seconds: float) -> Answered:
    """Read a whole answer. Raises Transient for what is none."""
    try:
        (choice,) = document["choices"]
        text = choice.get("text") if "text" in choice else choice["message"].get("content")
        usage = document.get("usage") or {}
        return Answered(
            text or "",
            int(usage.get("prompt_tokens", 0)),
            int(usage.get("completion_tokens", 0)),
            str(choice["finish_reason"]),
            seconds,
            _mean_logprob(choice.get("logprobs") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Transient(f"the engine's answer cannot be read: {type(error).__name__}: {error}") from error


def _cut(answer: Answered, stops: Sequence[str]) -> Answered:
    """Return an answer as it had ended at the first of `stops`, which the engine was not told; tokens are those that it generated."""
    ends = [at for stop in stops if (at := answer.text.find(stop)) >= 0]
    return replace(answer, text=answer.text[: min(ends)], finish_reason="stop") if ends else answer


def _mean_logprob(told: Mapping[str, Any]) -> float | None:
    """Return the mean over tokens, of either API's form."""
    tokens = [token["logprob"] for token in told["content"]] if told.get("content") else told.get("token_logprobs") or []
    known = [float(token) for token in tokens if token is not None and isfinite(token)]
    return fmean(known) if known else None


def _scored(document: Mapping[str, Any], chars: int) -> Scored:
    """Read the tokens of an echoed text, without the one that had to be generated."""
    try:
        told = document["choices"][0]["logprobs"]
        offsets = [at for at in told["text_offset"] if at < chars]
        logprobs = tuple(told["token_logprobs"][: len(offsets)])
        best = [max(top.values()) if top else None for top in told["top_logprobs"][: len(offsets)]]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Transient(f"the engine's scores cannot be read: {type(error).__name__}: {error}") from error
    greedy = tuple(one is not None and top is not None and one >= top for one, top in zip(logprobs, best, strict=True))
    return Scored(tuple(offsets), logprobs, greedy)


def _read(document: Mapping[str, Any], before: int) -> tuple[float, ...]:
    """Return the log-probabilities of a prompt's tokens from `before` on: chats state them beside their choice, completions in it.

    Each position lists the token itself first, and more tokens only where the engine adds some. The first token of all has none.
    """
    try:
        (choice,) = document["choices"]
        told = document.get("prompt_logprobs") or choice["prompt_logprobs"]
        return tuple(float(next(iter(at.values()))["logprob"]) for at in told[before:] if at)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Transient(f"the engine's probabilities cannot be read: {type(error).__name__}: {error}") from error


def _continued(document: Mapping[str, Any]) -> Continued:
    try:
        (choice,) = document["choices"]
        prompt = tuple({int(token): float(it["logprob"]) for token, it in (at or {}).items()} for at in choice["prompt_logprobs"])
        told = choice["logprobs"]["top_logprobs"]
        generated = tuple({int(name.removeprefix("token_id:")): float(value) for name, value in at.items()} for at in told)
        return Continued(prompt, tuple(map(int, choice["token_ids"])), generated)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Transient(f"the engine's probabilities cannot be read: {type(error).__name__}: {error}") from error


def _events(response: httpx.Response) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events up to `[DONE]`. Raises Transient for anything else."""
    for line in response.iter_lines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data == "[DONE]":
            return
        if not data:
            continue
        try:
            event = json.loads(data)
        except ValueError as error:
            raise Transient(f"the engine sent an invalid event: {data[:80]!r}") from error
        if isinstance(event, dict):
            yield event


def _said(body: bytes) -> str:
    try:
        document = json.loads(body)
        return str((document.get("error") or document).get("message") or document)[:300]
    except (ValueError, AttributeError):
        return body[:200].decode("utf-8", "replace")
