"""A scripted engine that states the probabilities of prompts, a word a token, as vLLM does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.equipment.openai_server import Says, Script


def asked_of(body: dict[str, Any]) -> str:
    """Return the whole text that a request gives to the model."""
    return " ".join(message["content"] for message in body["messages"]) if "messages" in body else str(body["prompt"])


def judging(logprob: Callable[[str], float], *, refuses: Callable[[str], bool] = lambda _text: False) -> Script:
    """Return a script in which each word of a prompt has the log-probability that `logprob` gives it; 400 to a text that it refuses."""

    def script(_path: str, body: dict[str, Any]) -> Says:
        text = asked_of(body)
        if refuses(text):
            return Says("prompt_logprobs are not available", status=400)
        words = text.split()
        told = [None, *({str(place): {"logprob": logprob(word), "decoded_token": word}} for place, word in enumerate(words[1:], 1))]
        if "messages" in body:
            choice: dict[str, Any] = {"index": 0, "message": {"content": "."}, "finish_reason": "length"}
            document = {"choices": [choice], "prompt_logprobs": told}
        else:
            choice = {"index": 0, "text": ".", "finish_reason": "length", "prompt_logprobs": told}
            document = {"choices": [choice]}
        usage = {"prompt_tokens": len(words), "completion_tokens": 1}
        return Says(raw=json.dumps({**document, "usage": usage}).encode())

    return script
