"""Renders a chat template as transformers does (utils/chat_template_utils.py), sandboxed. Runs as a child of `confined`.

In: {"template", "conversations": [[message, ...], ...], "special": {"bos_token": ..., ...}}. Out: the rendered texts.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import UTC, datetime
from typing import Any

_MAX_RENDERED = 1024**2


def main() -> None:
    """Answer one question from stdin on stdout."""
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu_s"], asked["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory_bytes"], asked["memory_bytes"]))
    json.dump(_answer(asked), sys.stdout)


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    from jinja2 import TemplateError  # noqa: PLC0415 - below the limits

    try:
        return {"end": "done", "value": _render(asked)}
    except (MemoryError, OverflowError):
        return {"end": "too_much_memory"}
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, SyntaxError) as error:
        return {"end": "broken", "why": f"{type(error).__name__}: {str(error)[:200]}"}


def _render(asked: dict[str, Any]) -> list[str]:
    template = _environment().from_string(asked["template"])
    texts: list[str] = []
    for messages in asked["conversations"]:
        pieces: list[str] = []
        size = 0
        for piece in template.generate(messages=messages, add_generation_prompt=True, tools=None, documents=None, **asked["special"]):
            size += len(piece)
            if size > _MAX_RENDERED:
                raise MemoryError
            pieces.append(piece)
        texts.append("".join(pieces))
    return texts


def _environment() -> Any:
    from jinja2 import TemplateError, nodes  # noqa: PLC0415
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.parser import Parser  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    class Generation(Extension):
        """`{% generation %}`, which marks what an assistant said for training, is only its body here."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now(tz=UTC).strftime(form)
    return environment


if __name__ == "__main__":
    main()
