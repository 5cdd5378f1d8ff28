"""Which chat template the engine uses: chat_template.jinja, else the one in tokenizer_config.json, as transformers 5 reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evals.checks.model_files import ModelFiles
from evals.checks.names import TEMPLATE, TEMPLATE_JSON, TOKENIZER_CONFIG
from evals.checks.reading import Unreadable, plain_text, shown
from evals.checks.report import NotCheckable, first_of

_MAX_TEMPLATE_BYTES = 1024**2
_DEFAULT = "default"
_RENAME = f"Save the template's text as {TEMPLATE} and submit again"


@dataclass(frozen=True, slots=True)
class Source:
    """The template's text; empty without one, and `why` then states what was found instead, `hint` what to do."""

    text: str
    why: str = ""
    hint: str = "Add the template that the model was trained with as chat_template.jinja and submit again (a base model needs one, too)"


def template_source(files: ModelFiles) -> Source:
    """Return the template that vLLM renders. Raises Unreadable for a broken one, NotCheckable where another check refuses the file."""
    if TEMPLATE in files.stand_ins:
        raise NotCheckable
    raw = files.read(TEMPLATE, _MAX_TEMPLATE_BYTES)
    if raw is not None:
        text = plain_text(TEMPLATE, raw)
        return Source(text, "" if text else f"{TEMPLATE} is empty")
    found = _of_config((files.json(TOKENIZER_CONFIG) or {}).get("chat_template"))
    if found is not None:
        return found
    if TEMPLATE_JSON in files.paths:
        return Source("", f"the only chat template is in {TEMPLATE_JSON}, which vLLM reads for multimodal processors only", _RENAME)
    return Source("", f"there is no chat template, neither {TEMPLATE} nor `chat_template` in {TOKENIZER_CONFIG}")


def _of_config(value: Any) -> Source | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Source(value, "" if value else f"`chat_template` in {TOKENIZER_CONFIG} is empty")
    named = value if isinstance(value, dict) else _listed(value)
    if named is None or not all(isinstance(text, str) for text in named.values()):
        expected = "a string, or a list of objects with `name` and `template`"
        raise Unreadable(f"`chat_template` in {TOKENIZER_CONFIG} must be {expected}, got {shown(value)}")
    if _DEFAULT not in named:
        names = first_of(sorted(f"'{name}'" for name in named)) or "none"
        return Source(
            "",
            f"of the chat templates in {TOKENIZER_CONFIG} ({names}) none is named 'default'",
            "Name one of them 'default' and submit again",
        )
    return Source(named[_DEFAULT], "" if named[_DEFAULT] else f"the chat template 'default' in {TOKENIZER_CONFIG} is empty")


def _listed(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, list):
        return None
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) and "template" in entry for entry in value):
        return None
    return {entry["name"]: entry["template"] for entry in value}
