"""What a client asks: read once from its body, which otherwise travels on unchanged."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any, NoReturn

from core.ids import new_id
from serving.gateway.responses import Receive, Rejected

MAX_BODY = 4 * 1024 * 1024
_CONVERSATION = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_compact = json.JSONEncoder(separators=(",", ":")).encode
_HEAD_ROLES = frozenset({"system", "developer"})


class Kind(StrEnum):
    """The two ways to ask; the value is the path at the engine."""

    CHAT = "/v1/chat/completions"
    TEXT = "/v1/completions"

    @property
    def id_prefix(self) -> str:
        """What vLLM puts before the request id to make the answer's id."""
        return "chatcmpl-" if self is Kind.CHAT else "cmpl-"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a completion. `body` goes to the engine; `show_usage` decides whether a stream's usage is shown to the client.

    `document` is the parsed `body`. It is never modified.
    """

    kind: Kind
    model: str
    stream: bool
    show_usage: bool
    body: bytes
    opening: bytes | None
    """What all requests of one chat have in common (system prompt, first user message), digested; None for plain completions."""
    document: dict[str, Any]
    draws: int = 1
    """How many answers the endpoint's policy draws to send one of them."""
    single: Ask | None = None
    """The same request for one answer, where several are drawn: for an engine that cannot draw several."""

    def saying(self, fields: dict[str, Any]) -> Ask:
        """Return the request with these fields."""
        body, document = spliced(self.body, self.document, fields)
        return replace(self, body=body, document=document)


class ClientGone(Exception):
    """The client closed its connection."""


async def read_body(receive: Receive, declared: bytes | None, limit_s: float) -> bytes:
    """Return the request's body. Rejected when it is too large or too slow; ClientGone when it ends half way."""
    if declared is not None and declared.isdigit() and (len(declared) > 10 or int(declared) > MAX_BODY):  # noqa: PLR2004
        raise _too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= MAX_BODY:
        return body
    try:
        async with asyncio.timeout(limit_s):
            return await _read_rest(receive, message)
    except TimeoutError as error:
        raise Rejected(408, f"the body did not arrive within {limit_s:g} s", reason="body_too_slow", hint="send it again") from error


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
    return Rejected(413, f"the body is larger than {MAX_BODY} bytes", reason="body_too_large", hint="send less text")


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Rejected (400) says what is wrong and where.

    Stricter than JSON's grammar: UTF-8 only, no NaN or Infinity, no name twice in one object (two readers could differ on it).
    """
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_no_doubles, parse_constant=_no_constant)
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


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _bad_json("the body names a field twice in one object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise _bad_json(f"the body holds {name}, which JSON does not know")


def _bad_json(what: str) -> Rejected:
    return Rejected(400, what, reason="invalid_json", hint="send one JSON object in UTF-8")


def _json_name(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null", dict: "object"}
    return names.get(type(value), "value")


def parse_ask(kind: Kind, body: bytes) -> Ask:
    """Return what is asked. Rejected (400) names the field that is wrong. Everything else is the engine's to judge."""
    document = parse_json(body)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "a non-empty string", model)
    stream = document.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("stream", "true or false", stream)
    if kind is Kind.TEXT and not isinstance(document.get("prompt"), str | list):
        raise _wrong("prompt", "a string or an array", document.get("prompt"))
    opening = _opening(document) if kind is Kind.CHAT else None
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object", options)
    show = bool(options and options.get("include_usage"))
    if stream and not show:
        body = _with_usage(document, body)
    return Ask(kind, model, bool(stream), show, body, opening, document)


def _wrong(field: str, wanted: str, given: object) -> Rejected:
    was = "is missing" if given is None else f"is {_json_name(given)}"
    return Rejected(400, f"`{field}` {was}", reason="invalid_value", param=field, hint=f"it must be {wanted}")


def _opening(document: dict[str, Any]) -> bytes:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a non-empty array of objects", messages)
    said: list[object] = [document.get("user")]
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(f"messages[{place}]", "an object", message)
        role = message.get("role")
        if isinstance(role, str) and role in _HEAD_ROLES:
            said.append(message.get("content"))
        elif role == "user":
            said.append(message.get("content"))
            break
    return blake2b(json.dumps(said).encode(), digest_size=16).digest()


def _with_usage(document: dict[str, Any], body: bytes) -> bytes:
    """Return the body with `stream_options.include_usage` on, and note it in the document. Every stream passes here."""
    known = "stream_options" in document
    document["stream_options"] = {"include_usage": True}
    if known:
        return _compact(document).encode()
    start = body.index(b"{") + 1
    return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]


def spliced(body: bytes, document: dict[str, Any], fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return body and document with these fields. New fields are spliced in, so nothing else changes; else all is serialized again."""
    said = {**document, **fields}
    if not document.keys().isdisjoint(fields):
        return _compact(said).encode(), said
    start = body.index(b"{") + 1
    return b"%b%b,%b" % (body[:start], _compact(fields)[1:-1].encode(), body[start:]), said


def conversation_word(given: bytes | None, ask: Ask) -> str:
    """Return the name of the conversation as the client sees it.

    The client's own (`X-Seatrial-Conversation`); else a digest of the chat's beginning, so that an unchanged client stays with its
    model; else a new name. Rejected (400) when the client's name is not valid.
    """
    if given is not None:
        if not _CONVERSATION.fullmatch(given):
            raise Rejected(
                400,
                "`X-Seatrial-Conversation` is not a valid conversation name",
                reason="invalid_value",
                param="X-Seatrial-Conversation",
                hint="use 1 to 128 letters, digits, dots, colons, dashes or underscores",
            )
        return given.decode("ascii")
    return f"chat-{ask.opening.hex()}" if ask.opening is not None else new_id("text")
