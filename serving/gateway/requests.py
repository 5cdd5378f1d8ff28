"""Requests for completions, parsed from the body. The gateway forwards the body's bytes; it changes only the fields that it must set."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any, NoReturn

from core.ids import new_id
from core.reasons import Reason
from serving.gateway.responses import Receive, Rejected

MAX_BODY = 4 * 1024 * 1024
_CONVERSATION = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_compact = json.JSONEncoder(separators=(",", ":")).encode
_SYSTEM_ROLES = frozenset({"system", "developer"})


class Kind(StrEnum):
    """The two kinds of completions. The value is the path at the gateway and at the engine."""

    CHAT = "/v1/chat/completions"
    TEXT = "/v1/completions"

    @property
    def id_prefix(self) -> str:
        """The prefix that vLLM puts before the request id in a completion's id."""
        return "chatcmpl-" if self is Kind.CHAT else "cmpl-"


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A request for a completion. `body` is sent to the engine; `show_usage` decides whether the client gets a stream's usage.

    `document` is the parsed `body`. It is never modified.
    """

    kind: Kind
    model: str
    stream: bool
    show_usage: bool
    body: bytes
    chat_digest: bytes | None
    """A digest of the parts that all requests of one chat share (system prompt, first user message, `user`); None for texts."""
    document: dict[str, Any]
    draws: int = 1
    """The number of answers that the engine draws, by the endpoint's policy; the client gets one of them."""
    single: CompletionRequest | None = None
    """The same request for one answer, where `draws` is above 1: sent if the engine refuses to draw several."""

    def with_fields(self, fields: dict[str, Any]) -> CompletionRequest:
        """Return the request with these fields set."""
        body, document = spliced(self.body, self.document, fields)
        return replace(self, body=body, document=document)


class ClientGone(Exception):
    """The client disconnected."""


async def read_body(receive: Receive, content_length: bytes | None, limit_s: float) -> bytes:
    """Return the body. Rejected (413, 408) when it is too large or too slow; ClientGone when the client disconnects before its end."""
    if content_length is not None and content_length.isdigit() and (len(content_length) > 10 or int(content_length) > MAX_BODY):  # noqa: PLR2004
        raise _too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= MAX_BODY:
        return body
    try:
        async with asyncio.timeout(limit_s):
            return await _read_rest(receive, message)
    except TimeoutError as error:
        raise Rejected(408, f"the body did not arrive within {limit_s:g} s", reason=Reason.BODY_TOO_SLOW, hint="send it again") from error


async def _read_rest(receive: Receive, message: Any) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise _too_large()
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


def _too_large() -> Rejected:
    return Rejected(413, f"the body is larger than {MAX_BODY} bytes", reason=Reason.BODY_TOO_LARGE, hint="send less text")


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Rejected (400) states the error and its position.

    Stricter than JSON's grammar: UTF-8 only, no NaN or Infinity, no duplicate names in one object (parsers treat them differently).
    """
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_reject_constant)
    except UnicodeDecodeError as error:
        raise _bad_json(f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise _bad_json(f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise _bad_json("the body is nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise _bad_json("the body holds a number that is too long") from error
    if not isinstance(document, dict):
        raise _bad_json(f"the body is a JSON {_json_name(document)}, not an object")
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _bad_json("the body names a field twice in one object")
    return document


def _reject_constant(name: str) -> NoReturn:
    raise _bad_json(f"the body holds {name}, which JSON does not know")


def _bad_json(what: str) -> Rejected:
    return Rejected(400, what, reason=Reason.INVALID_JSON, hint="send one JSON object in UTF-8")


def _json_name(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null", dict: "object"}
    return names.get(type(value), "value")


def parse_completion_request(kind: Kind, body: bytes) -> CompletionRequest:
    """Return the request in `body`. Rejected (400) names the invalid field. The engine validates all other fields."""
    document = parse_json(body)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise _invalid("model", "a non-empty string", model)
    stream = document.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _invalid("stream", "true or false", stream)
    if kind is Kind.TEXT and not isinstance(document.get("prompt"), str | list):
        raise _invalid("prompt", "a string or an array", document.get("prompt"))
    chat_digest = _chat_digest(document) if kind is Kind.CHAT else None
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _invalid("stream_options", "an object", options)
    show = bool(options and options.get("include_usage"))
    if stream and not show:
        body = _with_usage(document, body)
    return CompletionRequest(kind, model, bool(stream), show, body, chat_digest, document)


def _invalid(field: str, expected: str, given: object) -> Rejected:
    was = "is missing" if given is None else f"is {_json_name(given)}"
    return Rejected(400, f"`{field}` {was}", reason=Reason.INVALID_VALUE, param=field, hint=f"it must be {expected}")


def _chat_digest(document: dict[str, Any]) -> bytes:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", "a non-empty array of objects", messages)
    shared: list[object] = [document.get("user")]
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _invalid(f"messages[{index}]", "an object", message)
        role = message.get("role")
        if isinstance(role, str) and role in _SYSTEM_ROLES:
            shared.append(message.get("content"))
        elif role == "user":
            shared.append(message.get("content"))
            break
    return blake2b(json.dumps(shared).encode(), digest_size=16).digest()


def _with_usage(document: dict[str, Any], body: bytes) -> bytes:
    """Return the body with `stream_options.include_usage` set, and set it in the document too."""
    given = "stream_options" in document
    document["stream_options"] = {"include_usage": True}
    if given:
        return _compact(document).encode()
    start = body.index(b"{") + 1
    return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]


def spliced(body: bytes, document: dict[str, Any], fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return body and document with these fields. New fields are inserted and all other bytes stay; otherwise the body is serialized."""
    changed = {**document, **fields}
    if not document.keys().isdisjoint(fields):
        return _compact(changed).encode(), changed
    start = body.index(b"{") + 1
    return b"%b%b,%b" % (body[:start], _compact(fields)[1:-1].encode(), body[start:]), changed


def conversation_key(header: bytes | None, request: CompletionRequest) -> str:
    """Return the client's key of the conversation.

    The value of `X-Seatrial-Conversation`; without it, a digest of the chat's beginning, so that an unchanged client stays with one
    version; for texts, a new key. Rejected (400) when the header is invalid.
    """
    if header is not None:
        if not _CONVERSATION.fullmatch(header):
            raise Rejected(
                400,
                "`X-Seatrial-Conversation` is not a valid conversation name",
                reason=Reason.INVALID_VALUE,
                param="X-Seatrial-Conversation",
                hint="use 1 to 128 letters, digits, dots, colons, dashes or underscores",
            )
        return header.decode("ascii")
    return f"chat-{request.chat_digest.hex()}" if request.chat_digest is not None else new_id("text")
