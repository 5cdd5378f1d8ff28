"""Model import: from downloaded files to a stored model version, idempotent by content."""

from __future__ import annotations

import fcntl
import hashlib
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from core.errors import Fault, NotFound, Transient
from core.fidelity import Reference
from core.ids import Digest, Epoch, VersionId
from core.ports import EnginePrograms, WeightsStore
from core.ports.records import Versions
from core.ports.weights import Bundle
from core.versions import EngineNeeds, FileDigest, ModelVersion, ResolvedModel
from registry.reference import compute_reference, stored_reference
from registry.tensorize import MANIFEST, tensorize, tensors_digest, version_digest
from registry.work import Work

_REFERENCE = ".reference.json"


class Examined(Protocol):
    """The results of the checks for a model that passed them."""

    @property
    def needs(self) -> EngineNeeds | None:
        """The requirements of an engine that serves it."""
        ...

    @property
    def chat_template(self) -> Digest | None:
        """sha256 of its chat template."""
        ...

    @property
    def licence(self) -> str | None:
        """Its licence."""
        ...


class ModelImport:
    """Imports models. `downloads` and `scratch` are folders for work in progress; `programs` runs the tensorizer.

    Bundles are removed only while `installation` owns the store.
    """

    def __init__(
        self, versions: Versions, weights: WeightsStore, downloads: Path, scratch: Path, programs: EnginePrograms, installation: str
    ) -> None:
        self._versions = versions
        self._weights = weights
        self._downloads = downloads
        self._scratch = scratch
        self._programs = programs
        self._installation = installation

    def find(self, model: ResolvedModel) -> ModelVersion | None:
        """Return the version of this commit when both its bundles are stored completely, else None."""
        found = self._versions.find(source=model.ref.source, commit=model.commit, limit=1)
        return found[0] if found and self.stored(found[0]) else None

    def stored(self, version: ModelVersion) -> bool:
        """Return whether both bundles of a version are stored completely. Restores bundles that were withdrawn."""
        return self._stored(Digest(version.id)) and self._stored(version.tensors)

    @contextmanager
    def download_folder(self, source: str, commit: str) -> Iterator[Path]:
        """Lend the folder of one commit's download to one process at a time. Raises Transient while another process holds it."""
        key = hashlib.sha256(f"{source}\0{commit}".encode()).hexdigest()[:32]
        folder = self._downloads / key
        self._downloads.mkdir(parents=True, exist_ok=True)
        with (self._downloads / f"{key}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Transient(
                    f"{source}@{commit[:8]} is being downloaded by another submission", hint="The step is retried automatically"
                ) from error
            folder.mkdir(exist_ok=True)  # under the lock: reconcile removes a folder that no process holds
            yield folder

    def stage(
        self,
        model: ResolvedModel,
        folder: Path,
        files: Sequence[FileDigest],
        examined: Examined,
        *,
        reference_bytes: int,
        now: Epoch,
        progress: Callable[[float, str], None],
    ) -> tuple[ModelVersion, bool]:
        """Tensorize and stage the missing bundles. Return the version, and whether this call stored any weights.

        Also computes the reference of the version's probabilities, for weights of up to `reference_bytes` in float32.
        """
        tensors, stored = self._stage_tensors(folder, files, progress)
        small = [file for file in files if not file.path.endswith((".safetensors", ".safetensors.index.json"))]
        identity = version_digest(files)
        reference = self._reference(VersionId(identity), folder, reference_bytes)  # staging takes files out of the folder
        self._weights.stage(identity, folder, small)
        if examined.needs is None or examined.licence is None:
            raise Fault(
                f"{model} passed its checks, but they did not determine its needs and licence", hint="Report this as a bug of evals/checks"
            )
        version = ModelVersion(
            id=VersionId(identity),
            source=model.ref.source,
            commit=model.commit,
            files=tuple(files),
            tensors=tensors.digest,
            tensors_manifest=next(file.sha256 for file in tensors.files if file.path == MANIFEST),
            licence=examined.licence,
            chat_template=examined.chat_template,
            needs=examined.needs,
            created_at=now,
        )
        return self._versions.put(version, reference), stored

    def discard(self, version: ModelVersion, in_use: Callable[[], Collection[Digest] | None]) -> None:
        """Remove the staged bundles of a refused version. Published bundles and bundles in use stay: other versions need them.

        `in_use` is called while the bundle is withdrawn: a submission that reuses the bundle is either found here or restores it.
        None means every bundle.
        """
        for digest in (Digest(version.id), version.tensors):
            bundle = self._open(digest)
            if bundle is None or not bundle.published:
                self._remove(digest, in_use)

    def forget_download(self, source: str, commit: str) -> None:
        """Remove the downloaded files of a commit; stored bundles do not need them. Does nothing while another process holds them."""
        try:
            with self.download_folder(source, commit) as folder:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_suffix(".lock").unlink(missing_ok=True)
        except Transient:
            return

    def sweep(self, in_use: Callable[[], Collection[Digest] | None]) -> tuple[Digest, ...]:
        """Remove the unused staged bundles, as `discard` does, and return them."""
        staged = tuple(bundle.digest for bundle in self._weights.list() if not bundle.published)
        return tuple(digest for digest in staged if self._remove(digest, in_use))

    def clear_work(self) -> None:
        """Remove downloads and scratch that no process holds. Call it only while no submission and no benchmark is running."""
        work = Work(self._downloads, self._scratch)
        for item in work.items():
            work.remove(item.name, before=math.inf)

    def _reference(self, version: VersionId, folder: Path, max_bytes: int) -> Reference:
        """Return a version's reference: the stored one, one that a killed process left in the download's folder, or a new one.

        One is computed at a time, for each takes the memory that is free.
        """
        known = self._versions.reference(version)
        if known is not None and known.prompts:
            return known
        if not max_bytes:
            return Reference("", unavailable="references are switched off by a setting")
        made = folder / _REFERENCE
        self._scratch.mkdir(parents=True, exist_ok=True)
        with (self._scratch / "reference.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists() or not stored_reference(made).prompts:
                compute_reference(folder, made, self._programs, max_bytes)
            return stored_reference(made)

    def _remove(self, digest: Digest, in_use: Callable[[], Collection[Digest] | None]) -> bool:
        used = in_use()
        if used is None or digest in used or self._weights.claim(self._installation) != self._installation:
            return False
        self._weights.withdraw(digest)
        used = in_use()
        if used is None or digest in used:
            self._open(digest)
            return False
        return self._weights.purge(digest, math.inf)

    def _stage_tensors(self, folder: Path, files: Sequence[FileDigest], progress: Callable[[float, str], None]) -> tuple[Bundle, bool]:
        digest = tensors_digest(files)
        present = self._open(digest)
        if present is not None:
            return present, False
        out = self._scratch / f"tensorize-{digest[:32]}"
        out.parent.mkdir(parents=True, exist_ok=True)
        with (self._scratch / f"tensorize-{digest[:32]}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the same weights twice at once: the second finds them stored
            present = self._open(digest)
            if present is not None:
                return present, False
            result = tensorize(folder, out, self._programs, progress=progress)
            bundle = self._weights.stage(digest, result.folder, result.files)
            shutil.rmtree(out, ignore_errors=True)
        return bundle, True

    def _open(self, digest: Digest) -> Bundle | None:
        try:
            return self._weights.reclaim(digest)  # one that garbage collection has withdrawn is taken back
        except NotFound:
            return None

    def _stored(self, digest: Digest) -> bool:
        return self._open(digest) is not None
