"""Renders a chat template as transformers does (utils/chat_template_utils.py), sandboxed. Runs as a child of `confined`.

In: {"template", "conversations": [[message, ...], ...], "special": {"bos_token": ..., ...}}. Out: the rendered texts.

A message's content is given as vLLM gives it: as a list of parts where the template loops over a message's content, else as a string.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

_MAX_RENDERED = 1024**2


def main() -> None:
    """Answer one question from stdin on stdout."""
    cpu_s, memory_bytes = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    sys.excepthook = _tell
    asked = json.load(sys.stdin)
    try:
        import jinja2.ext  # noqa: PLC0415 - below the limits
        import jinja2.sandbox  # noqa: F401, PLC0415
    except ImportError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # no answer: the template is not at fault
    json.dump({"end": "done", "value": _render(asked)}, sys.stdout)


def _tell(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Answer for a template that raises: jinja2's filters raise errors of any type, also AssertionError and NameError."""
    if issubclass(kind, MemoryError):
        json.dump({"end": "too_much_memory"}, sys.stdout)
    else:
        json.dump({"end": "broken", "why": f"{kind.__name__}: {str(error)[:200]}"}, sys.stdout)


def takes_parts(template: str) -> bool:
    """Return whether the template loops over the content of a message (vLLM's content format "openai")."""
    from jinja2 import nodes  # noqa: PLC0415 - below the limits

    tree = _environment().parse(template)
    messages = _aliases(tree, {"messages"})
    message = {
        loop.target.name
        for loop in tree.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name) and _is_name(_bare(loop.iter), messages)
    }
    content = _macro_arguments(tree, message)
    in_macros = {id(loop) for macro in tree.find_all(nodes.Macro) for loop in macro.find_all(nodes.For)}
    return any(
        _is_content(over := _bare(loop.iter), message)
        or _is_name(over, content)
        or (_is_name(over, {"content"}) and id(loop) not in in_macros)
        for loop in tree.find_all(nodes.For)
    )


def _aliases(tree: Any, names: set[str]) -> set[str]:
    """Return `names` and every variable that `{% set %}` makes from one, directly or through others."""
    from jinja2 import nodes  # noqa: PLC0415

    assigns = [node for node in tree.find_all(nodes.Assign) if isinstance(node.target, nodes.Name)]
    found = set(names)
    while True:
        more = {node.target.name for node in assigns if _is_name(_bare(node.node), found)} - found
        if not more:
            return found
        found |= more


def _macro_arguments(tree: Any, message: set[str]) -> set[str]:
    """Return the parameters of macros that are called with a message's content."""
    from jinja2 import nodes  # noqa: PLC0415

    macros = {macro.name: [argument.name for argument in macro.args] for macro in tree.find_all(nodes.Macro)}
    found: set[str] = set()
    for call in tree.find_all(nodes.Call):
        names = macros.get(call.node.name, []) if isinstance(call.node, nodes.Name) else []
        given = [*zip(names, call.args, strict=False), *((keyword.key, keyword.value) for keyword in call.kwargs if keyword.key in names)]
        found |= {name for name, value in given if _is_content(_bare(value), message)}
    return found


def _bare(node: Any) -> Any:
    """Return what a filter, a test or a slice is applied to."""
    from jinja2 import nodes  # noqa: PLC0415

    while (isinstance(node, nodes.Filter | nodes.Test) and node.node is not None) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node


def _is_name(node: Any, names: set[str]) -> bool:
    from jinja2 import nodes  # noqa: PLC0415

    return isinstance(node, nodes.Name) and node.name in names


def _is_content(node: Any, message: set[str]) -> bool:
    from jinja2 import nodes  # noqa: PLC0415

    if isinstance(node, nodes.Getattr):
        return node.attr == "content" and _is_name(node.node, message)
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content" and _is_name(node.node, message)
    return False


def _render(asked: dict[str, Any]) -> list[str]:
    template = _environment().from_string(asked["template"])
    parts = takes_parts(asked["template"])
    texts: list[str] = []
    for conversation in asked["conversations"]:
        messages = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in conversation]
        given = {**asked["special"], "messages": messages if parts else conversation}
        pieces: list[str] = []
        size = 0
        for piece in template.generate(add_generation_prompt=True, tools=None, documents=None, **given):
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
        """`{% generation %}`, which marks what an assistant said for training; a scope of its own, as in transformers."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> str:
            return str(caller())

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now(tz=UTC).strftime(form)
    return environment


if __name__ == "__main__":
    main()
