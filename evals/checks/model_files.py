"""The files of a downloaded model as the checks read them: once and within bounds. Never follows a link, never loads a pickle."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from core.errors import Fault
from core.hosts import EngineHost
from core.reasons import Reason
from core.settings import ModelPolicy
from core.versions import ResolvedModel
from evals.checks.confined import Answer
from evals.checks.header import BadHeader, Header, header_length, parse_header
from evals.checks.names import CONFIG, INDEX, README, SPECIAL_TOKENS, TOKENIZER_CONFIG, is_text, is_weights
from evals.checks.reading import HEAD_BYTES, MAX_VALUES, StandIn, Unreadable, json_object, other_format, stand_in
from evals.checks.report import NotCheckable

_MAX_CONFIG_BYTES = 16 * 1024**2
_MAX_INDEX_BYTES = 32 * 1024**2
_MOST_VALUES = {INDEX: 1_000_000, TOKENIZER_CONFIG: 2_000_000, SPECIAL_TOKENS: 2_000_000}
"""Most values of the files that have more than others: an entry for each tensor, or 14 values for each of 65,536 speech tokens."""
_MAX_TENSORS = 400_000
"""Most tensors of a model, over all its files. The largest models of 2026 have 150,000."""
_MAX_README_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file. `header` is None where it is not sound, `fault` then says why; `cut` when tensors end past the file."""

    path: str
    size: int
    header: Header | None
    data_begin: int = 0
    fault: str = ""
    cut: bool = False


class ModelFiles:
    """The files of one model. Properties raise Unreadable for a broken file, and NotCheckable when another check reports that file."""

    def __init__(self, folder: Path, model: ResolvedModel, policy: ModelPolicy, host: EngineHost) -> None:
        self.folder = folder
        self.model = model
        self.policy = policy
        self.host = host
        self._documents: dict[str, Mapping[str, Any] | Unreadable | None] = {}
        self._answers: dict[str, Answer] = {}

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Every file, link and stray folder below the model's folder, by path; what begins with a dot is the download's bookkeeping."""
        return tuple(sorted(_walk(self.folder)))

    @cached_property
    def links(self) -> tuple[str, ...]:
        """The paths that are not plain files."""
        return tuple(path for path in self.paths if not stat.S_ISREG((self.folder / path).lstat().st_mode))

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json. Raises NotCheckable when it cannot be read: the check of JSON files reports it."""
        document = self.json(CONFIG)
        if document is None:
            raise NotCheckable
        return document

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The part of config.json that describes the language model."""
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) else self.config

    def json(self, name: str) -> Mapping[str, Any] | None:
        """Return a small JSON object, None when there is no such file. Raises NotCheckable when another check refuses it."""
        if name in self.stand_ins:
            raise NotCheckable
        try:
            return self.load(name)
        except Unreadable as error:
            raise NotCheckable from error

    def once(self, key: str, work: Callable[[], Answer]) -> Answer:
        """Return the result of `work`, cached under `key`: several checks share one child process."""
        if key not in self._answers:
            self._answers[key] = work()
        return self._answers[key]

    def load(self, name: str) -> Mapping[str, Any] | None:
        """Return a small JSON object, None if the file does not exist. Raises Unreadable. Each file is decoded once."""
        if name not in self._documents:
            try:
                self._documents[name] = self._decoded(name)
            except Unreadable as error:
                self._documents[name] = error
        document = self._documents[name]
        if isinstance(document, Unreadable):
            raise document
        return document

    def _decoded(self, name: str) -> Mapping[str, Any] | None:
        raw = self.read(name, _MAX_INDEX_BYTES if name == INDEX else _MAX_CONFIG_BYTES)
        return None if raw is None else json_object(name, raw, _MOST_VALUES.get(name, MAX_VALUES))

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file's bytes, None when it is not there. Raises Unreadable above `limit`."""
        if name not in self.paths or name in self.links:
            return None
        with self.open(name) as file:
            raw = file.read(limit + 1)
        if len(raw) > limit:
            raise Unreadable(f"{name} is larger than {limit} bytes")
        return raw

    def open(self, name: str) -> IO[bytes]:
        """Open a plain file of the folder; a link that has appeared since the listing is a Fault."""
        try:
            return os.fdopen(os.open(self.folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise Fault(f"{self.folder / name} cannot be read: {error.strerror}", hint="look at the machine's disk and rights") from error

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Every safetensors file with its header. Headers beyond `_MAX_TENSORS` tensors in all are not kept."""
        found: list[Shard] = []
        tensors = 0
        for path in self.paths:
            if not is_weights(path) or path in self.links:
                continue
            if tensors > _MAX_TENSORS:
                size = (self.folder / path).lstat().st_size
                found.append(Shard(path, size, None, fault=f"the files before it have {tensors} tensors, the limit is {_MAX_TENSORS}"))
                continue
            found.append(self._shard(path))
            tensors += len(header.tensors) if (header := found[-1].header) else 0
        return tuple(found)

    @cached_property
    def stand_ins(self) -> Mapping[str, StandIn]:
        """Files that hold a pointer or a web page instead of their content, by path. A README or licence may be a page."""
        found = {path: stand_in(self.head(path)) for path in self.paths if path not in self.links}
        pages_allowed = {path for path in found if path == README or is_text(path)}
        return {
            path: what
            for path, what in found.items()
            if what is not None and not (what.reason is Reason.WEB_PAGE and path in pages_allowed)
        }

    def head(self, path: str) -> bytes:
        """Return a plain file's first bytes."""
        with self.open(path) as file:
            return file.read(HEAD_BYTES)

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor by name. Raises NotCheckable when a file's header is not sound."""
        if not self.shards or any(shard.header is None for shard in self.shards):
            raise NotCheckable
        return {tensor.name: tensor.shape for shard in self.shards if shard.header for tensor in shard.header.tensors}

    @cached_property
    def readme(self) -> str:
        """README.md's beginning, empty without one."""
        if README not in self.paths or README in self.links:
            return ""
        with self.open(README) as file:
            return file.read(_MAX_README_BYTES).decode("utf-8-sig", "replace")

    def _shard(self, path: str) -> Shard:
        with self.open(path) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                length = header_length(file.read(8))
                if 8 + length > size:
                    other = other_format(self.head(path))
                    return Shard(path, size, None, fault=other or f"its header of {length} bytes is cut off", cut=not other)
                header = parse_header(file.read(length))
            except BadHeader as error:
                return Shard(path, size, None, fault=other_format(self.head(path)) or str(error))
        data = size - 8 - length
        if header.data_bytes > data:
            return Shard(path, size, header, 8 + length, f"it ends {header.data_bytes - data} bytes before its last tensor does", cut=True)
        if header.data_bytes < data:
            return Shard(path, size, None, fault=f"{data - header.data_bytes} bytes belong to no tensor")
        return Shard(path, size, header, 8 + length)


def _walk(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder, followlinks=False):
        below = Path(root).relative_to(folder)
        if below == Path():
            folders[:] = [name for name in folders if not name.startswith(".")]
            files = [name for name in files if not name.startswith(".")]  # noqa: PLW2901 - the same listing without bookkeeping
        yield from (str(below / name) for name in files)
        yield from (str(below / name) for name in folders if (Path(root) / name).is_symlink())
