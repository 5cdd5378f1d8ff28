"""What an endpoint's policy does to a request and its answer: sampling defaults, and several answers drawn of which one is sent."""

from __future__ import annotations

from dataclasses import replace
from math import fsum, inf
from typing import Any

from core.endpoints import BestOf, EndpointPolicy
from serving.gateway.requests import Ask, Kind

_GREEDY = 1e-5
"""Below this temperature vLLM (sampling_params.py) always takes the likeliest token, and refuses to do so several times."""
_ALONE = ("best_of", "use_beam_search", "echo", "prompt_logprobs", "logprob_token_ids")
"""Fields whose answer depends on how many answers are drawn, or whose log-probabilities are not the answer's alone."""


def shaped(ask: Ask, policy: EndpointPolicy) -> Ask:
    """Return the request as the engine shall see it. The very same one where the policy adds nothing.

    A default holds where the request does not set the field (or sets it to null, which OpenAI's API reads as not set).
    """
    if policy.best_of == 1 and not policy.sampling():
        return ask
    fields: dict[str, Any] = {name: value for name, value in policy.sampling().items() if ask.document.get(name) is None}
    plain = ask.saying(fields) if fields else ask
    if not _may_draw(plain, policy):
        return plain
    return replace(plain.saying(_drawing(plain, policy.best_of)), draws=policy.best_of, single=plain)


def _may_draw(ask: Ask, policy: EndpointPolicy) -> bool:
    if policy.best_of == 1 or policy.policy is not BestOf.MEAN_LOGPROB or ask.stream:
        return False
    said = ask.document
    alone = any(said.get(name) for name in _ALONE) or said.get("n") not in (None, 1)
    return not alone and _is_warm(said.get("temperature")) and _has_known_logprobs(ask) and _is_one_prompt(said.get("prompt"))


def _is_warm(temperature: object) -> bool:
    """Whether answers differ. Without a temperature, the engine's default is assumed to be above 0, as OpenAI's is."""
    return temperature is None or (isinstance(temperature, int | float) and temperature >= _GREEDY)


def _has_known_logprobs(ask: Ask) -> bool:
    """Whether the request's wish for log-probabilities is one that can be kept; a wrong one is the engine's to refuse."""
    wish = ask.document.get("logprobs")
    if ask.kind is Kind.TEXT:
        return wish is None or (isinstance(wish, int) and not isinstance(wish, bool))
    return wish is True or (wish in (None, False) and not ask.document.get("top_logprobs"))


def _is_one_prompt(prompt: object) -> bool:
    """Whether one answer is asked for: a text, its token ids, or a list of one of these. A chat has no `prompt`."""
    return not isinstance(prompt, list) or len(prompt) == 1 or all(isinstance(token, int) for token in prompt)


def _drawing(ask: Ask, count: int) -> dict[str, Any]:
    wish: Any = ask.document.get("logprobs")
    if ask.kind is Kind.CHAT:
        return {"n": count} if wish else {"n": count, "logprobs": True}
    return {"n": count} if wish is not None else {"n": count, "logprobs": 0}


def choose(ask: Ask, document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the answer with the one choice of the highest mean log-probability, as if it alone had been asked for, and its index.

    The mean is over the answer's tokens, as in the studies (evals/study.py). Of equals the first is taken; a choice without
    log-probabilities loses to every other. Log-probabilities stay only where the client asked for them; usage stays whole.
    """
    choices = [choice for choice in document.get("choices", ()) if isinstance(choice, dict)]
    if not choices:
        return document, 0
    best = max(choices, key=mean_logprob)
    wish = (ask.single or ask).document.get("logprobs")
    asked = wish is not None and wish is not False
    shown = {**best, "index": 0} if asked else {**best, "index": 0, "logprobs": None}
    index = best.get("index", 0)
    return {**document, "choices": [shown]}, index if isinstance(index, int) else 0


def mean_logprob(choice: dict[str, Any]) -> float:
    """Return the mean log-probability (natural logarithm) of a choice's tokens, minus infinity where it has none."""
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        return -inf
    content = found.get("content")
    if isinstance(content, list):
        values = [token.get("logprob") for token in content if isinstance(token, dict)]
    else:
        values = found.get("token_logprobs") or []
    numbers = [float(value) for value in values if isinstance(value, int | float)] if isinstance(values, list) else []
    return fsum(numbers) / len(numbers) if numbers else -inf
