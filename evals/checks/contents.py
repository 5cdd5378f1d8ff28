"""Only known files, all of them plain, the JSON among them readable, and no code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.versions import Finding
from evals.checks.evidence import Evidence, Unreadable
from evals.checks.names import CONFIG, TOKENIZER_CONFIG, is_wanted
from evals.checks.report import fail, first_of

_READ = (CONFIG, TOKENIZER_CONFIG, "generation_config.json", "special_tokens_map.json", "chat_template.json")
_CODE_KEYS = {"auto_map", "custom_pipelines"}
_MAX_DEPTH = 8


def only_known_files(evidence: Evidence) -> Iterator[Finding]:
    """Hold the folder to the allow-list; a link could point at anything on this machine."""
    if evidence.links:
        yield fail(
            "link_in_model",
            f"{evidence.model}: {len(evidence.links)} entries are links or devices, first {first_of(evidence.links)}",
            "put the files themselves in their place and submit again",
        )
    others = [path for path in evidence.paths if not is_wanted(path) and path not in evidence.links]
    if others:
        yield fail(
            "unexpected_file",
            f"{evidence.model}: {len(others)} files are no part of a model: {first_of(others)}",
            "leave only safetensors, JSON, tokenizer, template, README and licence, and submit again",
        )


def readable_json(evidence: Evidence) -> Iterator[Finding]:
    """Read every small JSON file within its bounds; config.json must be there."""
    for name in _READ:
        try:
            missing = evidence.load(name) is None and name == CONFIG and CONFIG not in evidence.links
        except Unreadable as error:
            yield fail("bad_json", f"{evidence.model}: {error}", f"write {name} anew (save_pretrained does) and submit again")
            continue
        if missing:
            yield fail("no_config", f"{evidence.model}: there is no config.json", "add the transformers config.json and submit again")


def no_remote_code(evidence: Evidence) -> Iterator[Finding]:
    """Refuse what would need `trust_remote_code`: engines run with it off, always."""
    for name in (CONFIG, TOKENIZER_CONFIG):
        document = evidence.json(name)
        found = sorted(_code_keys(document or {}, 0))
        if found:
            yield fail(
                "remote_code",
                f"{evidence.model}: {name} asks for the model's own code ({first_of(found)}), which is never run",
                f"submit a model of an architecture that vLLM knows, with {found[0]} taken out of {name}",
            )


def _code_keys(value: Any, depth: int) -> set[str]:
    if depth > _MAX_DEPTH:
        return set()
    if isinstance(value, dict):
        inner = set().union(*(_code_keys(entry, depth + 1) for entry in value.values())) if value else set()
        return inner | (_CODE_KEYS & value.keys()) | ({"trust_remote_code"} if value.get("trust_remote_code") is True else set())
    if isinstance(value, list):
        return set().union(*(_code_keys(entry, depth + 1) for entry in value)) if value else set()
    return set()
