"""The contract of Hub, held by every adapter: a folder, and the Hugging Face hub's protocol on a server of our own."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.errors import NotFound, Refused
from core.ports import Hub
from core.ports.clock import SystemClock
from core.versions import HubFile, ModelRef, ResolvedModel
from registry.hub.folder import FolderHub
from registry.hub.huggingface import HuggingFaceHub
from tests.equipment.hub_server import HubServer

CARD = "---\nlicense: Apache-2.0\nbase_model: [org/parent, org/other]\n---\n# A model\n"
CONTENT = {
    "README.md": CARD.encode(),
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 8192,
    "nested/tokenizer größer.json": b'{"a": 1}',
    "empty.json": b"",
}


class Place(ABC):
    """One adapter, and the folder that its model is made from."""

    hub: Hub
    ref: ModelRef
    missing: ModelRef
    folder: Path

    @abstractmethod
    def fetched(self) -> int:
        """Return how many content bytes were asked for so far."""


class OnFolder(Place):
    def __init__(self, tmp_path: Path) -> None:
        self.folder = fill(tmp_path / "hub/org/model")
        self.hub, self.ref, self.missing = FolderHub(), ModelRef(str(self.folder)), ModelRef(str(tmp_path / "nowhere"))

    def fetched(self) -> int:
        return 0


class OnHuggingFace(Place):
    def __init__(self, server: HubServer) -> None:
        self.server, self.folder = server, fill(server.root / "org/model")
        self.hub = HuggingFaceHub(server.url, None, stall_s=2.0, limit_s=60.0, clock=SystemClock())
        self.ref, self.missing = ModelRef("org/model"), ModelRef("org/missing")

    def fetched(self) -> int:
        return sum(size for key, size in self.server.sent.items() if key)


def fill(folder: Path) -> Path:
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def ignore(_done: int, _total: int) -> None:
    """Progress that nobody wants."""


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["folder", "huggingface"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        if request.param == "folder":
            yield OnFolder(tmp_path)
        else:
            yield OnHuggingFace(stack.enter_context(HubServer(tmp_path / "hub")))


@pytest.fixture
def model(place: Place) -> ResolvedModel:
    return place.hub.resolve(place.ref)


def test_a_model_is_pinned_with_its_files_licence_and_base_models(place: Place, model: ResolvedModel) -> None:
    assert [(file.path, file.size) for file in model.files] == [(name, len(CONTENT[name])) for name in sorted(CONTENT)]
    assert model.licence == "apache-2.0"
    assert model.base_models == ("org/parent", "org/other")
    assert model.ref == place.ref


def test_resolving_twice_gives_the_same_commit_and_another_content_another(place: Place, model: ResolvedModel) -> None:
    assert place.hub.resolve(place.ref) == model
    (place.folder / "config.json").write_bytes(b'{"changed": true}')
    assert place.hub.resolve(place.ref).commit != model.commit


def test_what_does_not_exist_is_not_found(place: Place) -> None:
    with pytest.raises(NotFound) as refusal:
        place.hub.resolve(place.missing)
    assert refusal.value.reason == "not_found"
    assert refusal.value.hint


def test_every_file_arrives_with_its_digest_sorted_by_path(place: Place, model: ResolvedModel, tmp_path: Path) -> None:
    read = place.hub.download(model, model.files, tmp_path / "target", ignore)
    assert [(file.path, file.size, file.sha256) for file in read] == [
        (name, len(CONTENT[name]), hashlib.sha256(CONTENT[name]).hexdigest()) for name in sorted(CONTENT)
    ]
    assert content_of(tmp_path / "target") == CONTENT


def test_only_the_files_that_are_asked_for_are_brought(place: Place, model: ResolvedModel, tmp_path: Path) -> None:
    wanted = [file for file in model.files if file.path == "config.json"]
    place.hub.download(model, wanted, tmp_path / "target", ignore)
    assert set(content_of(tmp_path / "target")) == {"config.json"}


def test_nothing_is_fetched_a_second_time(place: Place, model: ResolvedModel, tmp_path: Path) -> None:
    first = place.hub.download(model, model.files, tmp_path / "target", ignore)
    fetched = place.fetched()
    assert place.hub.download(model, model.files, tmp_path / "target", ignore) == first
    assert place.fetched() == fetched


def test_a_file_that_was_lost_is_brought_again(place: Place, model: ResolvedModel, tmp_path: Path) -> None:
    place.hub.download(model, model.files, tmp_path / "target", ignore)
    (tmp_path / "target/config.json").unlink()
    place.hub.download(model, model.files, tmp_path / "target", ignore)
    assert content_of(tmp_path / "target") == CONTENT


def test_progress_counts_up_to_the_whole(place: Place, model: ResolvedModel, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    place.hub.download(model, model.files, tmp_path / "target", lambda done, total: seen.append((done, total)))
    total = sum(map(len, CONTENT.values()))
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_progress_that_raises_stops_the_work_and_it_can_be_taken_up_again(place: Place, model: ResolvedModel, tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(_done: int, _total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        place.hub.download(model, model.files, tmp_path / "target", cancel)
    place.hub.download(model, model.files, tmp_path / "target", ignore)
    assert content_of(tmp_path / "target") == CONTENT


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "half a character \ud800"])
def test_a_listed_name_that_leaves_the_folder_is_refused(place: Place, model: ResolvedModel, tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused) as refusal:
        place.hub.download(model, [HubFile(name, 1, git_oid="0" * 40)], tmp_path / "target", ignore)
    assert refusal.value.reason == "unsafe_path"
    assert content_of(tmp_path / "target") == {}
