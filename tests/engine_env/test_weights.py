import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from equipment import random_tensors, write_source
from seatrial_engine.errors import WeightsRefused
from seatrial_engine.manifest import MANIFEST_NAME
from seatrial_engine.tensorize import tensorize
from seatrial_engine.weights import open_manifest, open_tensors, read_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Tensorized weights of two files."""
    tensorize(write_source(tmp_path / "source", {"model.safetensors": random_tensors(4)}), tmp_path / "out", shard_bytes=128)
    return tmp_path / "out"


def load(folder: Path, uri: str | None = None) -> list[str]:
    expected = hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
    source = open_tensors(uri or str(folder))
    return [name for name, _tensor in read_weights(source, open_manifest(source, expected))]


def test_weights_are_read_from_a_folder_and_from_a_file_uri(weights: Path):
    assert load(weights) == load(weights, weights.as_uri()) == [f"layer.{index}.weight" for index in range(4)]


def test_one_flipped_bit_is_refused_before_any_tensor_of_its_file_is_handed_out(weights: Path):
    file = weights / "model-00002.tensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsRefused, match=r"model-00002\.tensors: its SHA-256 differs"):
        load(weights)


def test_a_cut_file_is_refused_by_its_size(weights: Path):
    file = weights / "model-00001.tensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WeightsRefused, match=r"model-00001\.tensors: \d+ bytes, tensors\.json says \d+"):
        load(weights)


def test_a_missing_file_is_refused_by_name(weights: Path):
    (weights / "model-00002.tensors").unlink()
    with pytest.raises(WeightsRefused, match=r"model-00002\.tensors: missing"):
        load(weights)


def test_a_manifest_of_another_hash_is_refused(weights: Path):
    with pytest.raises(WeightsRefused, match=r"tensors\.json: SHA-256 \w+ is not the expected 0000"):
        open_manifest(open_tensors(str(weights)), "0" * 64)


def test_weights_without_a_manifest_are_refused_as_unfinished(weights: Path):
    (weights / MANIFEST_NAME).unlink()
    with pytest.raises(WeightsRefused, match="not finished"):
        open_manifest(open_tensors(str(weights)), "0" * 64)


def rewrite(weights: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((weights / MANIFEST_NAME).read_bytes())
    change(document)
    (weights / MANIFEST_NAME).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document["tensors"].pop(), "first to differ: layer.3.weight"),
        (lambda document: document["tensors"][0].update(shape=[8, 2]), r"layer\.0\.weight has shape \(2, 8\)"),
        (lambda document: document.update(format=2), "format 2"),
        (lambda document: document["files"][0].pop("sha256"), "malformed"),
    ],
)
def test_a_manifest_that_disagrees_with_its_files_is_refused(weights: Path, change: Callable[[dict[str, Any]], object], message: str):
    rewrite(weights, change)
    with pytest.raises(WeightsRefused, match=message):
        load(weights)


def test_a_uri_without_a_reader_is_refused_by_its_scheme():
    with pytest.raises(WeightsRefused, match="no reader for ftp://"):
        open_tensors("ftp://host/weights")
