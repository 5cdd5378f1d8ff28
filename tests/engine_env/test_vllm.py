"""Real vLLM: our loader, our launcher and our fork server, against vLLM's own start and its own safetensors loader.

Plain vLLM runs on this CPU as it is. Everything of ours runs where torch reports AMX (see `amx`), and gives the same tokens.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from amx import simulated_amx
from equipment import wait_until
from s3 import s3_server
from seatrial_engine.manifest import MANIFEST_NAME
from seatrial_engine.tensorize import tensorize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

START_S = 300
OPTIONS = ["--served-model-name", "tiny", "--host", "127.0.0.1", "--enforce-eager", "--max-model-len", "512"]
SMALL_CACHE = ["--kv-cache-memory-bytes", str(64 << 20), "--shutdown-timeout", "20"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama; heads of 32, the smallest that vLLM's CPU attention has."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=len(fast), max_position_embeddings=512, bos_token_id=0, eos_token_id=1, **shape)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bare(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model's folder without its weights."""
    folder = tmp_path_factory.mktemp("bare")
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="session")
def weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tensorize(model, folder, shard_bytes=100_000)
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


@pytest.fixture(scope="session")
def with_amx(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**environment(), **simulated_amx(tmp_path_factory.mktemp("amx"))}


def attention_kernel(log: Path) -> str:
    """The engine's own line about its attention kernel."""
    (line,) = [line for line in log.read_text().splitlines() if "seatrial: attention kernel " in line]
    return line.partition("seatrial: attention kernel ")[2]


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory, with_amx: dict[str, str]) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("fork_server") / "socket"
    command = [sys.executable, "-m", "seatrial_engine.serve", "--fork-server", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=with_amx, text=True) as process:
        ready = next(json.loads(line) for line in process.stdout if line.startswith("{"))
        assert ready["threads"] == 1, "forking is safe only without other threads"
        yield path
        process.stdin.close()
        assert process.wait(20) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def ours(bare: Path, weights: Path, sha256: str | None = None) -> list[str]:
    sha256 = sha256 or hashlib.sha256((weights / MANIFEST_NAME).read_bytes()).hexdigest()
    extra = json.dumps({"tensors": weights.as_uri(), "tensors_manifest_sha256": sha256})
    return ["--model", str(bare), "--load-format", "seatrial", "--model-loader-extra-config", extra]


class Engine:
    """A server that the fork server forks."""

    def __init__(self, fork_server: Path, arguments: list[str], log: Path) -> None:
        self.port, self.log = free_port(), log
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(START_S)
        connection.connect(str(fork_server))
        argv = [*arguments, *OPTIONS, *SMALL_CACHE, "--port", str(self.port)]
        connection.sendall(json.dumps({"argv": argv, "log": str(log)}).encode() + b"\n")
        self._answers = connection.makefile()
        self.pid = json.loads(self._answers.readline())["pid"]

    def exit_code(self) -> int:
        return json.loads(self._answers.readline())["exit"]

    def __enter__(self) -> "Engine":
        wait_until(lambda: healthy(self.port), START_S, f"healthy, see {self.log}")
        return self

    def __exit__(self, *_details: object) -> None:
        os.kill(self.pid, signal.SIGTERM)
        assert self.exit_code() == 0


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def complete(port: int, max_tokens: int = 16) -> list[int]:
    body = {"model": "tiny", "prompt": list(range(10, 30)), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps({**body, "return_token_ids": True}).encode(),
        {"content-type": "application/json", "x-request-id": "abc"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        document = json.load(answer)
    assert document["id"] == "cmpl-abc"
    return document["choices"][0]["token_ids"]


@pytest.fixture(scope="session")
def tokens_of_plain_vllm(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """What vLLM answers when started its own way from safetensors."""
    port, log = free_port(), tmp_path_factory.mktemp("plain") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *OPTIONS, *SMALL_CACHE]
    with log.open("w") as stream:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=stream, stderr=stream, env=environment())
    try:
        wait_until(lambda: healthy(port) or process.poll() is not None, START_S, f"healthy, see {log}")
        return complete(port)
    finally:
        process.terminate()
        process.wait(60)


def test_our_loader_gives_the_tokens_of_safetensors_and_of_plain_vllm(
    model: Path, bare: Path, weights: Path, fork_server: Path, tokens_of_plain_vllm: list[int], tmp_path: Path
):
    with Engine(fork_server, ours(bare, weights), tmp_path / "ours.log") as engine:
        ours_tokens = complete(engine.port)
    with Engine(fork_server, ["--model", str(model)], tmp_path / "safetensors.log") as engine:
        safetensors_tokens = complete(engine.port)
    assert len(ours_tokens) == 16
    assert ours_tokens == safetensors_tokens == tokens_of_plain_vllm
    assert attention_kernel(tmp_path / "ours.log").startswith("vec; AMX is switched off")


def test_a_cold_start_through_our_launcher_answers_and_stops(
    bare: Path, weights: Path, with_amx: dict[str, str], tokens_of_plain_vllm: list[int], tmp_path: Path
):
    port = free_port()
    command = [sys.executable, "-m", "seatrial_engine.serve", *ours(bare, weights), *OPTIONS, *SMALL_CACHE, "--port", str(port)]
    with (tmp_path / "log").open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=with_amx)
    try:
        wait_until(lambda: healthy(port) or process.poll() is not None, START_S, "healthy")
        assert complete(port) == tokens_of_plain_vllm
    finally:
        process.terminate()
    assert process.wait(60) == 0
    assert attention_kernel(tmp_path / "log").startswith("vec; AMX is switched off")


def bundle(source: Path, folder: Path) -> None:
    """Lay small files out as the weights' store does."""
    shutil.copytree(source, folder)
    files = [
        {"path": file.name, "size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in folder.iterdir()
    ]
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def status_of(port: int, path: str) -> int | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_a_pods_engine_serves_a_model_that_lies_in_s3_and_nowhere_else(
    bare: Path,
    weights: Path,
    with_amx: dict[str, str],
    tokens_of_plain_vllm: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    bundle(bare, tmp_path / "s3/bucket/model")
    shutil.copytree(weights, tmp_path / "s3/bucket/weights")
    sha256 = hashlib.sha256((weights / MANIFEST_NAME).read_bytes()).hexdigest()
    extra = json.dumps({"tensors": "s3://bucket/weights", "tensors_manifest_sha256": sha256})
    port, status_port = free_port(), free_port()
    pod = ["-m", "seatrial_engine.pod", "--status-port", str(status_port), "--model-folder", str(tmp_path / "model"), "--"]
    load = ["--model", "s3://bucket/model", "--load-format", "seatrial", "--model-loader-extra-config", extra]
    (tmp_path / "model").mkdir()
    with s3_server(tmp_path / "s3", monkeypatch), (tmp_path / "log").open("w") as log:
        command = [sys.executable, *pod, *load, *OPTIONS, *SMALL_CACHE, "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**environment(), "PYTHONPATH": with_amx["PYTHONPATH"]})
        try:
            wait_until(lambda: status_of(status_port, "/ready") == 200 or process.poll() is not None, START_S, f"ready, see {tmp_path}/log")
            assert complete(port) == tokens_of_plain_vllm
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert "seatrial: weights loaded in" in (tmp_path / "log").read_text()
    assert attention_kernel(tmp_path / "log").startswith("vec; AMX is switched off")


def refusal_of(engine: Engine) -> str:
    assert engine.exit_code() != 0
    (line,) = [line for line in engine.log.read_text().splitlines() if "seatrial: weights refused: " in line]
    return line.partition("seatrial: weights refused: ")[2]


def test_a_wrong_manifest_hash_ends_the_start_with_one_line_that_says_so(bare: Path, weights: Path, fork_server: Path, tmp_path: Path):
    engine = Engine(fork_server, ours(bare, weights, "0" * 64), tmp_path / "log")
    assert "is not the expected 0000" in refusal_of(engine)


def test_a_corrupted_file_ends_the_start_with_one_line_that_names_it(bare: Path, model: Path, fork_server: Path, tmp_path: Path):
    tensorize(model, tmp_path / "weights")
    file = tmp_path / "weights" / "model-00001.tensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    engine = Engine(fork_server, ours(bare, tmp_path / "weights"), tmp_path / "log")
    assert refusal_of(engine).startswith("model-00001.tensors: its SHA-256 differs")


def test_weights_that_lack_a_parameter_of_the_model_are_refused(bare: Path, model: Path, fork_server: Path, tmp_path: Path):
    llama = LlamaForCausalLM.from_pretrained(model)
    state = {name: tensor for name, tensor in llama.state_dict().items() if name != "model.norm.weight"}
    llama.save_pretrained(tmp_path / "source", state_dict=state)
    tensorize(tmp_path / "source", tmp_path / "weights")
    engine = Engine(fork_server, ours(bare, tmp_path / "weights"), tmp_path / "log")
    assert "model.norm.weight" in refusal_of(engine)


def test_answers_in_flight_are_finished_when_the_server_is_told_to_stop(bare: Path, weights: Path, fork_server: Path, tmp_path: Path):
    answers: list[list[int]] = []
    with Engine(fork_server, ours(bare, weights), tmp_path / "log") as engine:
        asking = threading.Thread(target=lambda: answers.append(complete(engine.port, max_tokens=480)))
        asking.start()
        wait_until(lambda: running(engine.port) == 1, 20, "the request is running")
    asking.join(20)
    assert [len(answer) for answer in answers] == [480]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("more", [[], ["--distributed-executor-backend", "mp"]], ids=["forked", "spawned"])
def test_a_killed_server_leaves_no_engine_process_behind(bare: Path, weights: Path, fork_server: Path, tmp_path: Path, more: list[str]):
    engine = Engine(fork_server, [*ours(bare, weights), *more], tmp_path / "log")
    wait_until(lambda: healthy(engine.port), START_S, "healthy")
    assert attention_kernel(engine.log).startswith("vec; AMX is switched off")
    family = children_of(engine.pid)
    family += [grandchild for child in family for grandchild in children_of(child)]
    os.kill(engine.pid, signal.SIGKILL)
    assert engine.exit_code() == -signal.SIGKILL
    assert family
    wait_until(lambda: all(map(gone, family)), 20, "the engine's processes have ended")


def running(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))
