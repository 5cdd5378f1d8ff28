"""Only known files, all of them plain, the JSON among them readable, and no code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.reasons import Reason
from core.versions import Finding
from evals.checks.model_files import ModelFiles
from evals.checks.names import ADDED_TOKENS, CONFIG, GENERATION_CONFIG, SPECIAL_TOKENS, TOKENIZER_CONFIG, is_wanted
from evals.checks.reading import Unreadable
from evals.checks.report import counted, fail, first_of

_READ = (CONFIG, TOKENIZER_CONFIG, GENERATION_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS)
_POINTER_HINT = "Run `git lfs pull` (or download the files again with `hf download`) and submit the folder again"
_PAGE_HINT = "Download the files again (`hf download` reports errors) and submit the folder again"
_CODE_KEYS = {"auto_map", "custom_pipelines"}
_MAX_DEPTH = 8


def only_known_files(files: ModelFiles) -> Iterator[Finding]:
    """Hold the folder to the allow-list; a link could point at anything on this machine."""
    if files.links:
        yield fail(
            Reason.LINK_IN_MODEL,
            f"{files.model}: {first_of(files.links)} must be plain files, not links or devices",
            "Replace each by a plain file and submit again",
        )
    others = [path for path in files.paths if not is_wanted(path) and path not in files.links]
    if others:
        yield fail(
            Reason.UNEXPECTED_FILE,
            f"{files.model}: {counted(len(others), 'file')} not accepted as part of a model: {first_of(others)}",
            "Keep only safetensors, JSON, tokenizer, template, README and licence files, and submit again",
        )


def whole_files(files: ModelFiles) -> Iterator[Finding]:
    """Refuse pointers of large-file stores and web pages that were saved under a model file's name."""
    for reason, hint in ((Reason.POINTER_FILE, _POINTER_HINT), (Reason.WEB_PAGE, _PAGE_HINT)):
        found = {path: what.what for path, what in files.stand_ins.items() if what.reason is reason}
        if found:
            verb = (
                f"is {next(iter(found.values()))}"
                if len(found) == 1
                else f"are not the files themselves but {_plural(set(found.values()))}"
            )
            yield fail(reason, f"{files.model}: {first_of(sorted(found))} {verb}", hint)


def readable_json(files: ModelFiles) -> Iterator[Finding]:
    """Read every small JSON file that transformers reads, within its bounds; config.json must be there."""
    for name in _READ:
        if name in files.stand_ins:
            continue
        try:
            missing = files.load(name) is None and name == CONFIG and CONFIG not in files.links
        except Unreadable as error:
            yield fail(Reason.BAD_JSON, f"{files.model}: {error}", f"Save {name} again as UTF-8 without a byte-order mark and submit again")
            continue
        if missing:
            yield fail(Reason.NO_CONFIG, f"{files.model}: config.json is missing", "Add the transformers config.json and submit again")


def no_remote_code(files: ModelFiles) -> Iterator[Finding]:
    """Refuse what would need `trust_remote_code`: engines run with it off, always."""
    for name in (CONFIG, TOKENIZER_CONFIG):
        document = files.json(name)
        found = sorted(_code_keys(document or {}, 0))
        if found:
            yield fail(
                Reason.REMOTE_CODE,
                f"{files.model}: {name} requires the model's own code ({first_of(found)}), which is never run",
                f"Remove {found[0]} from {name}, for an architecture that vLLM has built in, and submit again",
            )


def _plural(kinds: set[str]) -> str:
    return " and ".join(f"{kind.removeprefix('a ')}s" for kind in sorted(kinds))


def _code_keys(value: Any, depth: int) -> set[str]:
    if depth > _MAX_DEPTH:
        return set()
    if isinstance(value, dict):
        inner = set().union(*(_code_keys(entry, depth + 1) for entry in value.values())) if value else set()
        return inner | (_CODE_KEYS & value.keys()) | ({"trust_remote_code"} if value.get("trust_remote_code") is True else set())
    if isinstance(value, list):
        return set().union(*(_code_keys(entry, depth + 1) for entry in value)) if value else set()
    return set()
