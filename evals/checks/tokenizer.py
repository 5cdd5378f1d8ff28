"""The tokenizer gives back the text that it was given, and produces no id that the model has no embedding for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.reasons import Reason
from core.versions import Finding
from evals.checks.confined import Answer, End, Limits, confined
from evals.checks.embedding import embedding
from evals.checks.model_files import ModelFiles
from evals.checks.names import CONFIG, GENERATION_CONFIG, SENTENCEPIECE, TOKENIZER
from evals.checks.reading import Unreadable, json_object, shown
from evals.checks.report import NotCheckable, fail, not_checked
from evals.checks.sentencepiece import pieces
from evals.checks.tokens import Tokens, tokens

_SCRIPT = Path(__file__).with_name("tokenizer_child.py")
_LIMITS = Limits(cpu_s=30, memory_bytes=4 * 1024**3)
_TEXTS = ("Hello, world! 123", "def add(a, b):\n    return a + b\n")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_RESIZE = "Call model.resize_token_embeddings(len(tokenizer)), train or initialise the new rows, save model and tokenizer, and submit again"
_MAX_SENTENCEPIECE_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class _Loaded:
    trips: tuple[tuple[int, str], ...]
    top_id: int
    top_token: str
    framed_id: int


def tokenizer_round_trip(files: ModelFiles) -> Iterator[Finding]:
    """Encode and decode some text with tokenizer.json; spacing may differ (SentencePiece adds and drops it), characters may not."""
    if TOKENIZER not in files.paths:
        hint = "Save the fast tokenizer beside the weights (AutoTokenizer.from_pretrained(...).save_pretrained(...)) and submit again"
        yield fail(Reason.NO_TOKENIZER, f"{files.model}: tokenizer.json is missing", hint)
        return
    if TOKENIZER in files.stand_ins:
        raise NotCheckable
    why = _fault(files)
    if why:
        yield fail(Reason.TOKENIZER_BROKEN, f"{files.model}: {why}", "Save the tokenizer that the model was trained with and submit again")


def ids_within_embedding(files: ModelFiles) -> Iterator[Finding]:
    """Hold every id that the tokenizer or the configuration can produce against the embedding's rows.

    vLLM looks an id up without a bound: one request with such an id ends the engine's process for everybody.
    """
    known = embedding(files)
    if known is None:
        yield not_checked("ids_within_embedding", "no tensor has the name of an input embedding that this check knows")
        return
    name, rows = known
    for what in (*_tokenizer_excess(files, rows), *_configured_excess(files, rows)):
        yield fail(
            Reason.TOKEN_ID_BEYOND_EMBEDDING, f"{files.model}: {what}, but {name[:80]} has only {rows} rows (ids 0 to {rows - 1})", _RESIZE
        )


def _tokenizer_excess(files: ModelFiles, rows: int) -> Iterator[str]:
    if TOKENIZER in files.paths and TOKENIZER not in files.links and TOKENIZER not in files.stand_ins:
        loaded = _load(files, tokens(files))
        if isinstance(loaded, _Loaded) and loaded.top_id >= rows:
            yield f"the tokenizer has the token {loaded.top_token!r} with id {loaded.top_id}"
        elif isinstance(loaded, _Loaded) and loaded.framed_id >= rows:
            yield f"the post-processor in {TOKENIZER} adds the id {loaded.framed_id} to a text"
    raw = _sentencepiece(files)
    if raw is not None and (count := pieces(raw)) is not None and count > rows:
        yield f"{SENTENCEPIECE} has {count} tokens"


def _configured_excess(files: ModelFiles, rows: int) -> Iterator[str]:
    documents: dict[str, Mapping[str, Any] | None] = {CONFIG: files.config, GENERATION_CONFIG: files.json(GENERATION_CONFIG)}
    if files.text_config is not files.config:
        documents["text_config in config.json"] = files.text_config
    for name, document in documents.items():
        for key in _IDS:
            stated = (document or {}).get(key)
            values = stated if isinstance(stated, list) else [stated]
            beyond = next((value for value in values if type(value) is int and value >= rows), None)
            if beyond is not None:
                yield f"{key} in {name} is {shown(beyond)}"


def _sentencepiece(files: ModelFiles) -> bytes | None:
    if SENTENCEPIECE in files.stand_ins:
        return None
    try:
        return files.read(SENTENCEPIECE, _MAX_SENTENCEPIECE_BYTES)
    except Unreadable:
        return None  # the engine reads tokenizer.json


def _fault(files: ModelFiles) -> str:
    if TOKENIZER in files.links:
        return "tokenizer.json is a link"
    found = tokens(files)
    if found.faults:
        return found.faults[0]
    loaded = _load(files, found)
    if isinstance(loaded, Answer):
        return _unloadable(files, loaded)
    for text, (count, decoded) in zip(_TEXTS, loaded.trips, strict=True):
        if not count or "".join(decoded.split()) != "".join(text.split()):
            return f"tokenizer.json encodes {text!r} as {count} tokens, which decode to {decoded[:60]!r}"
    return ""


def _unloadable(files: ModelFiles, answer: Answer) -> str:
    match answer.end:
        case End.TOO_LONG:
            return f"loading tokenizer.json and encoding {len(_TEXTS)} short texts takes more than {_LIMITS.cpu_s} s of CPU time"
        case End.TOO_MUCH_MEMORY:
            return f"loading tokenizer.json takes more than {_LIMITS.memory_bytes >> 30} GiB of memory"
        case _:
            return f"tokenizer.json cannot be loaded: {_first_bytes(files) or answer.why}"


def _first_bytes(files: ModelFiles) -> str:
    """Return why a file that begins like this cannot be JSON, in words that the tokenizers library does not give."""
    try:
        json_object("it", files.head(TOKENIZER))
    except Unreadable as error:
        return str(error) if "is not JSON" not in str(error) else ""
    return ""


def _load(files: ModelFiles, found: Tokens) -> _Loaded | Answer:
    question = {"path": str((files.folder / TOKENIZER).absolute()), "texts": _TEXTS, "added": found.added}
    answer = files.once(TOKENIZER, lambda: confined(_SCRIPT, question, _LIMITS))
    if answer.end is not End.DONE:
        return answer
    trips, (top_id, top_token) = answer.value["trips"], answer.value["top"]
    return _Loaded(tuple((count, decoded) for count, decoded in trips), top_id, top_token, answer.value["framed"])
