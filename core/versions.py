"""Model versions: what a hub offers, what a version is, and what trials said of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from core.errors import Refused
from core.ids import Digest, Epoch, VersionId
from core.reasons import Reason, read_reason

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_REVISION = re.compile(r"[\w][\w./-]{0,199}")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """What a submitter writes: `ORG/MODEL[@REVISION]` on the hub, or an absolute folder."""

    source: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether this names a folder on this machine."""
        return self.source.startswith("/")

    def __str__(self) -> str:
        """Return the form that `parse` reads."""
        return f"{self.source}@{self.revision}" if self.revision else self.source

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read `ORG/MODEL[@REV]` or an absolute folder. Raises Refused for anything else."""
        if text.startswith("/"):
            return cls(text)
        source, _, revision = text.partition("@")
        if not _REPO.fullmatch(source) or ".." in source or (revision and not _REVISION.fullmatch(revision)):
            raise Refused(
                f"{text[:200]!r} is not a model id",
                reason=Reason.BAD_MODEL_ID,
                hint="write ORG/MODEL, ORG/MODEL@REVISION, an absolute folder or, on the command line, ./FOLDER",
            )
        return cls(source, revision or None)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file as the hub lists it, before any download. `sha256` where the hub knows it, else `git_oid` (sha1 of the blob)."""

    path: str
    size: int
    sha256: Digest | None = None
    git_oid: str | None = None


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A reference pinned to a commit. For a folder the commit is a digest of its listing."""

    ref: ModelRef
    commit: str
    files: tuple[HubFile, ...]
    licence: str | None = None
    base_models: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return `org/model@1a2b3c4d` for messages."""
        return f"{self.ref.source}@{self.commit[:8]}"


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file that was read: path relative to its folder, size in bytes, hex sha256."""

    path: str
    size: int
    sha256: Digest


@dataclass(frozen=True, slots=True)
class EngineNeeds:
    """What an engine needs to know and have to serve a version. Sizes in bytes, lengths in tokens."""

    architecture: str
    dtype: str
    weights_bytes: int
    max_model_len: int
    """The model's own context; in rows of earlier releases at most the setting of that time."""
    attention_heads: int = 0
    """They are divided among GPUs; 0 where the model has none, or was checked before this was looked at."""
    kv_bytes_per_token: int = 0
    """An upper bound; 0 where the model has no attention, or was checked before this was looked at."""
    recurrent: bool = False
    """Some layers keep a state per conversation instead of keys and values per token (state-space models, linear attention)."""
    quantized: bool = False
    """The weights are packed integers or eight-bit floats, whose kernels compute in `dtype` only."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable set of weights with its tokenizer, template and licence. Equal ids mean equal content."""

    id: VersionId
    source: str
    commit: str
    files: tuple[FileDigest, ...]
    tensors: Digest
    """Address of the tensorized form: digest over the safetensors files, so equal weights are stored once."""
    tensors_manifest: Digest
    """sha256 of the tensorized form's `tensors.json`; the engine refuses anything else."""
    licence: str
    chat_template: Digest | None
    needs: EngineNeeds
    created_at: Epoch
    registered_uri: str | None = None
    """Where the model registry shows it (`models:/name/3`), once it is registered."""

    @property
    def short(self) -> str:
        """The first twelve characters, for people."""
        return self.id[:12]


class TrialKind(StrEnum):
    """The gates before traffic."""

    CHECKS = "checks"
    SMOKE = "smoke"
    FIDELITY = "fidelity"
    LATENCY = "latency"
    BENCHMARK = "benchmark"
    DEGENERATION = "degeneration"


class Decision(StrEnum):
    """What a trial or an analysis says."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a trial's report. `name` is stable for programs; `reason` and `hint` are for people.

    The name of a passed finding is that of the check. The name of a failed one is a `Reason`: why a submission is refused.
    """

    name: str
    passed: bool
    reason: str = ""
    hint: str = ""

    @classmethod
    def failed(cls, refusal: Reason, what: str, hint: str) -> Finding:
        """Return a failed finding. `what` states for people the fault and its place, `hint` the next step."""
        return cls(refusal, passed=False, reason=what, hint=hint)

    def refused(self) -> Refused:
        """Return the error that ends a submission with this failed finding."""
        return Refused(self.reason, reason=read_reason(self.name), hint=self.hint)


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What one trial said of one version. `key` is the content it rests on (suite digest, engine, settings): same key, same report."""

    version: VersionId
    kind: TrialKind
    key: str
    decision: Decision
    findings: tuple[Finding, ...]
    numbers: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    """JSON for display: rows of a table, completions per problem. Nothing decides by it."""
    seconds: float = 0.0
    at: Epoch = 0.0

    def first_failure(self) -> Finding | None:
        """Return the finding that a submitter should be told first, or None when all passed."""
        return next((finding for finding in self.findings if not finding.passed), None)
