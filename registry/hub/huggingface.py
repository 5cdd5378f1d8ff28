"""The Hugging Face hub, or a mirror that speaks its protocol."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined] # documented, in no __all__

from core.errors import Fault
from core.ids import Digest
from core.model_card import base_models, licence
from core.ports.clock import Clock
from core.ports.hub import Progress
from core.versions import FileDigest, HubFile, ModelRef, ResolvedModel
from registry.files import disk_errors, inside, require_room
from registry.hub.errors import readable, translated
from registry.hub.transfer import Link, bring

_AT_ONCE = 4
_PARTS = ".partial"


class HuggingFaceHub:
    """`Hub` over HTTP. `endpoint` and `token` are used as given; None means the library's own endpoint, and no token.

    Raises Fault for a token that no header can carry.

    A connection that is silent for `stall_s` is cut; a download that takes longer than `limit_s` in all ends as Transient, and
    keeps what it has for the next attempt.
    """

    def __init__(self, endpoint: str | None, token: str | None, *, stall_s: float, limit_s: float, clock: Clock) -> None:
        bearer = _checked(token) or False
        self._api = HfApi(endpoint=endpoint.rstrip("/") if endpoint else None, token=bearer, library_name="seatrial")
        self._headers = build_hf_headers(token=bearer, library_name="seatrial")
        self._stall_s = stall_s
        self._limit_s = limit_s
        self._clock = clock

    def resolve(self, ref: ModelRef) -> ResolvedModel:
        """Ask for the listing of one commit, and, of a gated model, whether we may read it: so it is refused before any download."""
        with readable(str(ref)), translated(str(ref), self._page(ref), self._clock.now()):
            info = self._api.model_info(ref.source, revision=ref.revision, files_metadata=True, timeout=self._stall_s)
            files = tuple(sorted((_listed(sibling) for sibling in info.siblings or ()), key=lambda file: file.path))
            card = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
            model = ResolvedModel(ref, _commit(info), files, licence(card), base_models(card))
            if info.gated and files:
                self._knock(model, files[0])
        return model

    def download(self, model: ResolvedModel, files: Sequence[HubFile], target: Path, progress: Progress) -> tuple[FileDigest, ...]:
        """Fetch some files at once. `progress` is called by the calling thread."""
        with disk_errors(f"downloading {model}"):
            target.mkdir(parents=True, exist_ok=True)
            require_room(target, _missing_bytes(files, target), str(model))
        read = self._fetch(model, files, target, progress)
        with suppress(OSError):  # none, or not empty: a model may have a folder of this name
            (target / _PARTS).rmdir()
        return tuple(sorted(read, key=lambda file: file.path))

    def _page(self, ref: ModelRef) -> str:
        return f"{self._api.endpoint}/{ref.source}"

    def _url(self, model: ResolvedModel, file: HubFile) -> str:
        return hf_hub_url(model.ref.source, file.path, revision=model.commit, endpoint=self._api.endpoint)

    def _knock(self, model: ResolvedModel, file: HubFile) -> None:
        response = get_session().head(self._url(model, file), headers=self._headers, timeout=self._stall_s, follow_redirects=False)
        hf_raise_for_status(response)

    def _fetch(self, model: ResolvedModel, files: Sequence[HubFile], target: Path, progress: Progress) -> list[FileDigest]:
        news: queue.SimpleQueue[int | Future[FileDigest]] = queue.SimpleQueue()
        deadline = self._clock.monotonic() + self._limit_s
        link = Link(get_session(), self._headers, self._stall_s, deadline, self._clock, news.put)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
            try:
                for file in files:
                    pool.submit(self._bring, link, model, file, target).add_done_callback(news.put)
                return _follow(news, files, progress)
            finally:
                link.stop.set()  # an error here, or a `progress` that raises, ends the others too before we return
                pool.shutdown(cancel_futures=True)

    def _bring(self, link: Link, model: ResolvedModel, file: HubFile, target: Path) -> FileDigest:
        with disk_errors(f"downloading {model}"), translated(str(model), self._page(model.ref), self._clock.now()):
            return bring(link, self._url(model, file), file, _part(target, file), inside(target, file.path))


def _checked(token: str | None) -> str:
    """Return the token without the spaces and line ends that a file may add. The HTTP client's own error would tell the token."""
    bare = (token or "").strip()
    if not all("!" <= character <= "~" for character in bare):
        raise Fault("the hub token holds characters that no header can carry", hint="set SEATRIAL_HUB_TOKEN (or HF_TOKEN) to a valid token")
    return bare


def _follow(news: queue.SimpleQueue[int | Future[FileDigest]], files: Sequence[HubFile], progress: Progress) -> list[FileDigest]:
    done, total = 0, sum(file.size for file in files)
    read: list[FileDigest] = []
    while len(read) < len(files):
        item = news.get()
        if isinstance(item, Future):
            read.append(item.result())
        else:
            done += item
        progress(done, total)
    return read


def _listed(sibling: RepoSibling) -> HubFile:
    if sibling.lfs is not None:
        return HubFile(sibling.rfilename, sibling.lfs.size, sha256=Digest(sibling.lfs.sha256))
    if sibling.size is None:
        raise ValueError(sibling.rfilename)
    return HubFile(sibling.rfilename, sibling.size, git_oid=sibling.blob_id)


def _commit(info: ModelInfo) -> str:
    if not info.sha:
        raise ValueError(info.id)
    return info.sha


def _part(target: Path, file: HubFile) -> Path:
    key = f"{file.path}\0{file.sha256 or file.git_oid}"
    return target / _PARTS / hashlib.sha256(key.encode()).hexdigest()[:32]


def _missing_bytes(files: Sequence[HubFile], target: Path) -> int:
    return sum(file.size - max(_size(inside(target, file.path)), _size(_part(target, file))) for file in files)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
