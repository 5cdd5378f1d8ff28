import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from equipment import error_of, random_tensors, run_tensorize, wait_until, write_source
from safetensors.torch import save_file
from seatrial_engine.errors import environment_line
from seatrial_engine.manifest import MANIFEST_NAME, TensorsManifest
from seatrial_engine.source import read_source
from seatrial_engine.tensorize import plan_files, tensorize
from seatrial_engine.weights import FolderTensors, read_weights


def read_back(out: Path) -> dict[str, torch.Tensor]:
    manifest = TensorsManifest.from_json((out / MANIFEST_NAME).read_bytes())
    return {name: tensor.clone() for name, tensor in read_weights(FolderTensors(out), manifest)}


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        raw = [value.contiguous().reshape(-1).view(torch.uint8) for value in (found[name], tensor)]
        assert torch.equal(*raw), name


def all_types() -> dict[str, torch.Tensor]:
    types = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.float8_e4m3fn]
    tensors = {str(dtype): (torch.arange(24).reshape(2, 3, 4) - 5).to(torch.float32).to(dtype) for dtype in types}
    special = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    return {**tensors, "bool": torch.tensor([True, False]), "special": special, "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}


def test_every_type_comes_back_bit_for_bit(tmp_path: Path):
    source = write_source(tmp_path / "source", {"model.safetensors": all_types()})
    tensorize(source, tmp_path / "out")
    assert_same_bits(read_back(tmp_path / "out"), all_types())


def test_several_shards_come_back_as_one_set_of_tensors(tmp_path: Path):
    first, second = random_tensors(3, prefix="a", dtype=torch.bfloat16), random_tensors(4, prefix="b", dtype=torch.float16)
    source = write_source(tmp_path / "source", {"model-1.safetensors": first, "model-2.safetensors": second})
    tensorize(source, tmp_path / "out")
    assert_same_bits(read_back(tmp_path / "out"), {**first, **second})


def test_more_tensors_than_one_file_has_metadata_for_become_several_files(tmp_path: Path):
    tensors = random_tensors(6000, prefix="model.layers.11.block_sparse_moe.experts", dtype=torch.bfloat16)
    manifest = tensorize(write_source(tmp_path / "source", {"model.safetensors": tensors}), tmp_path / "out")
    assert len(manifest.files) > 1
    assert sum(file.tensors for file in manifest.files) == 6000
    assert_same_bits(read_back(tmp_path / "out"), tensors)


def test_shard_bytes_bound_every_file_but_one_of_a_single_larger_tensor(tmp_path: Path):
    tensors = {**random_tensors(10, width=128), "large": torch.zeros(64, 1024)}
    source = read_source(write_source(tmp_path / "source", {"model.safetensors": tensors}))
    plan = plan_files(source, shard_bytes=4096)
    assert [tensor for part in plan for tensor in part] == list(source)
    assert all(len(part) == 1 or sum(tensor.nbytes for tensor in part) <= 4096 for part in plan)


def test_the_same_source_gives_the_same_bytes(tmp_path: Path):
    source = write_source(tmp_path / "source", {"model.safetensors": random_tensors(50)})
    for out in ("one", "two"):
        tensorize(source, tmp_path / out, shard_bytes=1000)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("one", "two"))
    assert one == two


def test_the_command_reports_progress_and_the_manifest_hash_as_json_lines(tmp_path: Path):
    source = write_source(tmp_path / "source", {"model.safetensors": random_tensors(3)})
    completed = run_tensorize(source, tmp_path / "out", "--json-progress")
    *progress, done = map(json.loads, completed.stdout.splitlines())
    assert completed.returncode == 0
    assert progress[-1] == {"event": "progress", "tensors": 3, "tensors_total": 3, "bytes": 192, "bytes_total": 192}
    assert (done["event"], done["tensors"], done["bytes"], len(done["manifest_sha256"])) == ("done", 3, 192, 64)


def test_killed_in_the_middle_leaves_no_manifest_and_the_next_run_is_as_if_nothing_happened(tmp_path: Path):
    tensors = random_tensors(4000)
    source, out = write_source(tmp_path / "source", {"model.safetensors": tensors}), tmp_path / "out"
    command = [sys.executable, "-m", "seatrial_engine.tensorize", source, out, "--shard-bytes", "1000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until((out / "model-00005.tensors").exists, 60, "five files")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / MANIFEST_NAME).exists()

    again, fresh = tensorize(source, out), tensorize(source, tmp_path / "fresh")
    assert again == fresh
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "fresh").iterdir()}


def test_a_write_that_fails_exits_4_and_leaves_no_manifest(tmp_path: Path):
    source = write_source(tmp_path / "source", {"model.safetensors": {"weight": torch.zeros(1 << 20)}})
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    completed = run_tensorize(source, tmp_path / "out", preamble=limit)
    assert (completed.returncode, error_of(completed)["error"]) == (4, "fault")
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


def test_weights_that_do_not_fit_the_disk_exit_4_before_anything_is_written(tmp_path: Path):
    nbytes = 1 << 43
    header = json.dumps({"weight": {"dtype": "U8", "shape": [nbytes], "data_offsets": [0, nbytes]}}).encode()
    source = tmp_path / "source"
    source.mkdir()
    with (source / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + nbytes)
    completed = run_tensorize(source, tmp_path / "out")
    assert (completed.returncode, error_of(completed)["error"]) == (4, "transient")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("number", "word"), [(errno.ENOSPC, "transient"), (errno.EACCES, "fault")])
def test_an_error_of_the_machine_says_whether_trying_again_may_help(number: int, word: str):
    assert json.loads(environment_line(OSError(number, "message", "/path")))["error"] == word


def empty(folder: Path):
    folder.mkdir()


def cut(folder: Path):
    file = write_source(folder, {"model.safetensors": random_tensors(2)}) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def no_safetensors(folder: Path):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"not a header at all")


def held_twice(folder: Path):
    folder.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        save_file(random_tensors(1), folder / name)


def missing_shard(folder: Path):
    write_source(folder, {"a.safetensors": random_tensors(1, prefix="a"), "b.safetensors": random_tensors(1, prefix="b")})
    (folder / "b.safetensors").unlink()


def foreign_index(folder: Path):
    write_source(folder, {"a.safetensors": random_tensors(1, prefix="a"), "b.safetensors": random_tensors(1, prefix="b")})
    save_file(random_tensors(1, prefix="c"), folder / "b.safetensors")


def index_that_leaves_the_folder(folder: Path):
    write_source(folder, {"a.safetensors": random_tensors(1)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"layer.0.weight": "../a.safetensors"}}))


def unknown_type(folder: Path):
    folder.mkdir()
    header = json.dumps({"weight": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (empty, "no *.safetensors file"),
        (cut, "its header declares"),
        (no_safetensors, "does not fit a file"),
        (held_twice, "held by both a.safetensors and b.safetensors"),
        (missing_shard, "names b.safetensors, which is not there"),
        (foreign_index, "tensor b.0.weight of b.safetensors is in the index only"),
        (index_that_leaves_the_folder, "is not a safetensors file beside it"),
        (unknown_type, "of type F4"),
    ],
)
def test_a_source_at_fault_exits_3_and_says_what_and_what_next(tmp_path: Path, make: Callable[[Path], object], what: str):
    make(tmp_path / "source")
    completed = run_tensorize(tmp_path / "source", tmp_path / "out")
    assert completed.returncode == 3
    error = error_of(completed)
    assert error["error"] == "refused"
    assert what in error["what"]
    assert error["hint"]
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()
