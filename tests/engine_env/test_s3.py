"""Weights and small files straight from S3, against a real server; the node's cache; and what each refuses."""

import hashlib
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from equipment import random_tensors, write_source
from s3 import s3_server
from seatrial_engine.cache import CACHE_VARIABLE, CachedTensors
from seatrial_engine.errors import WeightsRefused
from seatrial_engine.fetch import fetch
from seatrial_engine.fetch import main as fetch_main
from seatrial_engine.hashed import HashedStream
from seatrial_engine.manifest import MANIFEST_NAME
from seatrial_engine.store import RangedReader, StoreAway
from seatrial_engine.tensorize import tensorize
from seatrial_engine.weights import TensorsSource, open_manifest, open_tensors, read_weights

URI = "s3://bucket/weights"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Tensorized weights of two files, below a bucket."""
    folder = tmp_path / "s3/bucket/weights"
    tensorize(write_source(tmp_path / "source", {"model.safetensors": random_tensors(6, width=3000)}), folder, shard_bytes=100_000)
    return folder


@pytest.fixture
def store(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with s3_server(tmp_path / "s3", monkeypatch):
        yield weights


def load(folder: Path, uri: str, source: TensorsSource | None = None) -> dict[str, torch.Tensor]:
    expected = hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
    source = source or open_tensors(uri)
    return {name: tensor.clone() for name, tensor in read_weights(source, open_manifest(source, expected))}


def test_weights_from_s3_are_those_of_the_folder(store: Path):
    near, far = load(store, str(store)), load(store, URI)
    assert near.keys() == far.keys()
    assert len(far) == 6
    assert all(torch.equal(near[name], far[name]) for name in near)


def test_a_flipped_bit_in_s3_is_refused_by_the_files_name(store: Path):
    file = max(store.glob("*.tensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsRefused, match=rf"{file.name}: its SHA-256 differs"):
        load(store, URI)


def test_a_bit_flipped_where_no_tensor_lies_is_refused_too(store: Path):
    file = min(store.glob("*.tensors"))
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsRefused, match=rf"{file.name}: "):
        load(store, URI)


def test_a_cut_file_in_s3_is_refused_by_its_size(store: Path):
    file = min(store.glob("*.tensors"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WeightsRefused, match=rf"{file.name}: \d+ bytes, tensors\.json says"):
        load(store, URI)


def test_a_missing_object_is_refused_by_name_and_a_missing_manifest_as_unfinished(store: Path):
    file = min(store.glob("*.tensors"))
    file.unlink()
    with pytest.raises(WeightsRefused, match=rf"{file.name}: missing"):
        load(store, URI)
    with pytest.raises(WeightsRefused, match="not finished"):
        open_manifest(open_tensors("s3://bucket/nothing"), "0" * 64)


@pytest.mark.usefixtures("store")
def test_a_bucket_that_refuses_us_is_not_the_weights_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreAway, match=r"s3://bucket/weights/tensors\.json"):
        open_manifest(open_tensors(URI), "0" * 64)


def test_the_second_engine_of_a_node_reads_what_the_first_one_kept(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    first = load(store, URI)
    for file in store.glob("*.tensors"):
        file.unlink()
    second = load(store, URI)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_kept_copy_is_dropped_and_the_next_start_fetches_it_again(store: Path, tmp_path: Path):
    source = CachedTensors(URI, open_tensors(URI), tmp_path / "cache")
    load(store, URI, source)
    (kept, *_others) = sorted((tmp_path / "cache").rglob("*.tensors"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(OSError, match="was damaged and is dropped"):
        load(store, URI, source)
    assert not kept.exists()
    assert len(load(store, URI, source)) == 6


def test_without_room_to_keep_them_weights_are_read_where_they_lie(store: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(load(store, URI, CachedTensors(URI, open_tensors(URI), tmp_path / "cache"))) == 6


def bundle(folder: Path, files: dict[str, bytes], **change: str) -> None:
    entries = []
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        entries.append({"path": path, "size": len(content), "sha256": change.get(path) or hashlib.sha256(content).hexdigest()})
    (folder / "manifest.staged.json").write_text(json.dumps({"format": 1, "files": entries}))


def test_small_files_come_with_their_hashes_verified_and_weights_stay_where_they_are(store: Path, tmp_path: Path):
    bundle(store.parent / "model", {"config.json": b"{}", "sub/template.jinja": b"x", "model.safetensors": b"heavy"})
    assert fetch("s3://bucket/model", tmp_path / "out") == 2
    assert (tmp_path / "out/sub/template.jinja").read_bytes() == b"x"
    assert not (tmp_path / "out/model.safetensors").exists()


def test_a_changed_small_file_is_refused_in_one_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle(store.parent / "model", {"config.json": b"{}"}, **{"config.json": "0" * 64})
    assert fetch_main(["s3://bucket/model", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err.startswith("seatrial: weights refused: config.json: its SHA-256 differs")


def test_a_bundle_without_a_manifest_or_with_a_name_that_leaves_it_is_refused(store: Path, tmp_path: Path):
    folder = store.parent / "model"
    folder.mkdir()
    entry = {"path": "../evil", "size": 1, "sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": [entry]}))
    with pytest.raises(WeightsRefused, match="leaves its folder"):
        fetch("s3://bucket/model", tmp_path / "out")
    with pytest.raises(WeightsRefused, match="there is no manifest"):
        fetch("s3://bucket/nothing", tmp_path / "out")


def test_a_ranged_reader_gives_the_bytes_of_the_file_wherever_it_is_read():
    content = random.Random(1).randbytes(10_007)
    asked: list[tuple[int, int]] = []

    def part(begin: int, end: int) -> bytes:
        asked.append((begin, end))
        return content[begin:end]

    reader = io.BufferedReader(RangedReader(part, len(content), part=1000, ahead=3), 64)
    jumps = random.Random(2)
    for _ in range(200):
        place, size = jumps.randrange(len(content)), jumps.randrange(3000)
        reader.seek(place)
        assert reader.read(size) == content[place : place + size]
    assert reader.read(0) == b""
    reader.seek(0, io.SEEK_END)
    assert reader.read(10) == b""
    assert max(end for _begin, end in asked) == len(content)
    reader.close()


def test_a_store_that_gives_less_than_it_announced_is_noticed():
    with io.BufferedReader(RangedReader(lambda _begin, _end: b"", 100)) as reader, pytest.raises(StoreAway, match="less than the 100"):
        reader.read(10)


def test_a_hashed_stream_hashes_every_byte_once_wherever_its_reader_jumps():
    content = random.Random(3).randbytes(50_000)
    stream = HashedStream(io.BytesIO(content))
    for place, size in ((0, 100), (5000, 10), (50, 300), (40_000, 5), (5, 20_000)):
        stream.seek(place)
        assert stream.read(size) == content[place : place + size]
    assert stream.finish() == hashlib.sha256(content).hexdigest()
