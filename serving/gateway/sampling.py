"""An endpoint's policy, applied to a request and its answer: sampling defaults and best-of."""

from __future__ import annotations

from dataclasses import replace
from math import fsum, inf
from typing import Any

from core.endpoints import BestOf, EndpointPolicy
from serving.gateway.requests import CompletionRequest, Kind

_GREEDY = 1e-5
"""Below this temperature, vLLM (sampling_params.py) samples greedily and refuses to draw several answers."""
_SINGLE_ONLY = ("best_of", "use_beam_search", "echo", "prompt_logprobs", "logprob_token_ids")
"""Fields that best-of would change: the answer depends on the number drawn, or the log-probabilities include other tokens."""


def apply_policy(request: CompletionRequest, policy: EndpointPolicy) -> CompletionRequest:
    """Return the request for the engine; the same object where the policy adds nothing.

    A default applies where the request does not set the field, or sets it to null, which OpenAI's API treats as not set.
    """
    if policy.best_of == 1 and not policy.sampling():
        return request
    fields: dict[str, Any] = {name: value for name, value in policy.sampling().items() if request.document.get(name) is None}
    plain = request.with_fields(fields) if fields else request
    if not _may_draw(plain, policy):
        return plain
    return replace(plain.with_fields(_best_of_fields(plain, policy.best_of)), draws=policy.best_of, single=plain)


def _may_draw(request: CompletionRequest, policy: EndpointPolicy) -> bool:
    if policy.best_of == 1 or policy.policy is not BestOf.MEAN_LOGPROB or request.stream:
        return False
    given = request.document
    single_only = any(given.get(name) for name in _SINGLE_ONLY) or given.get("n") not in (None, 1)
    return (
        not single_only and _is_sampled(given.get("temperature")) and _has_known_logprobs(request) and _is_one_prompt(given.get("prompt"))
    )


def _is_sampled(temperature: object) -> bool:
    """Whether answers can differ. Without a temperature, the engine's default is assumed to be above 0, as OpenAI's is."""
    return temperature is None or (isinstance(temperature, int | float) and temperature >= _GREEDY)


def _has_known_logprobs(request: CompletionRequest) -> bool:
    """Whether best-of can return the requested log-probabilities. The engine refuses an invalid value."""
    logprobs = request.document.get("logprobs")
    if request.kind is Kind.TEXT:
        return logprobs is None or (isinstance(logprobs, int) and not isinstance(logprobs, bool))
    return logprobs is True or (logprobs in (None, False) and not request.document.get("top_logprobs"))


def _is_one_prompt(prompt: object) -> bool:
    """Whether there is one prompt: a text, its token ids, or a list of one of these. A chat has no `prompt`."""
    return not isinstance(prompt, list) or len(prompt) == 1 or all(isinstance(token, int) for token in prompt)


def _best_of_fields(request: CompletionRequest, count: int) -> dict[str, Any]:
    logprobs: Any = request.document.get("logprobs")
    if request.kind is Kind.CHAT:
        return {"n": count} if logprobs else {"n": count, "logprobs": True}
    return {"n": count} if logprobs is not None else {"n": count, "logprobs": 0}


def select_choice(request: CompletionRequest, document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the answer with only the choice of the highest mean log-probability, and that choice's index in the engine's answer.

    The mean is over the choice's tokens, as in the studies (evals/study.py). Among equals, the first is selected; a choice without
    log-probabilities ranks last. Log-probabilities stay only if the client requested them. Usage covers all choices.
    """
    choices = [choice for choice in document.get("choices", ()) if isinstance(choice, dict)]
    if not choices:
        return document, 0
    best = max(choices, key=mean_logprob)
    logprobs = (request.single or request).document.get("logprobs")
    requested = logprobs is not None and logprobs is not False
    selected = {**best, "index": 0} if requested else {**best, "index": 0, "logprobs": None}
    index = best.get("index", 0)
    return {**document, "choices": [selected]}, index if isinstance(index, int) else 0


def mean_logprob(choice: dict[str, Any]) -> float:
    """Return the mean log-probability (natural logarithm) of a choice's tokens, minus infinity without any."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return -inf
    content = logprobs.get("content")
    if isinstance(content, list):
        values = [token.get("logprob") for token in content if isinstance(token, dict)]
    else:
        values = logprobs.get("token_logprobs") or []
    numbers = [float(value) for value in values if isinstance(value, int | float)] if isinstance(values, list) else []
    return fsum(numbers) / len(numbers) if numbers else -inf
