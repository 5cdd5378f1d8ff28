"""Why an engine ended, from how its processes ended and from the lines of its log."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from core.engines import EngineCause
from core.settings import GIB
from serving.engines.causes import START, diagnose
from serving.engines.endings import Ending
from serving.engines.memory import Memory, memory

ROOT = Path(__file__).parents[2]
PREFIX = "(EngineCore pid=4711) ERROR 11-21 04:52:00 [core.py:1188] "
SERVER = "(APIServer pid=4700) ERROR 11-21 04:52:01 [async_llm.py:712] "
ACCESS = '(APIServer pid=4700) INFO:     127.0.0.1:51234 - "GET /health HTTP/1.1" 200 OK'
DEAD = SERVER + "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause."
ONE = Ending(code=1)


@pytest.mark.parametrize(
    ("line", "cause", "text", "permanent"),
    [
        (
            PREFIX + "seatrial: weights refused: a.bin: 3 bytes, tensors.json says 4; tensorize again",
            EngineCause.WEIGHTS_REFUSED,
            "weights refused: a.bin",
            True,
        ),
        (
            "seatrial: weights not readable: s3://b/k: no credentials",
            EngineCause.WEIGHTS_UNREADABLE,
            "weights cannot be read: s3://b/k: no credentials",
            False,
        ),
        (
            "ValueError: Model architectures ['Foo'] are not supported for now.",
            EngineCause.UNSUPPORTED_ARCHITECTURE,
            "does not serve this architecture: ['Foo']",
            True,
        ),
        ("OSError: Can't load tokenizer for 'x'", EngineCause.TOKENIZER, "the tokenizer cannot be loaded", True),
        (
            PREFIX + "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried",
            EngineCause.OUT_OF_MEMORY,
            "out of memory",
            False,
        ),
        ("torch.OutOfMemoryError: CUDA out of memory", EngineCause.OUT_OF_MEMORY, "out of memory: the limit; give", False),
        ("OSError: [Errno 98] Address already in use", EngineCause.PORT_TAKEN, "took its port", False),
        ("/bin/python: ModuleNotFoundError: No module named 'vllm'", EngineCause.ENVIRONMENT, "lacks 'vllm'", False),
        ("OSError: [Errno 28] No space left on device", EngineCause.DISK_FULL, "the disk is full", False),
        (
            "ValueError: User-specified max_model_len (4096) is greater than the derived max_model_len (1024)",
            EngineCause.CONTEXT_TOO_LONG,
            "does not fit",
            True,
        ),
        (PREFIX + "RuntimeError: the moon is full", EngineCause.EXCEPTION, "RuntimeError: the moon is full", False),
        ("it said only this", EngineCause.EXITED, "ended with exit code 1; its last output: it said only this", False),
    ],
)
def test_the_cause_is_found_in_the_log(line: str, cause: EngineCause, text: str, permanent: bool) -> None:
    lines = [f"{START} old on port 1", "seatrial: weights refused: of an earlier start", f"{START} v on port 2", "INFO ok", line, ""]
    found = diagnose(lines, ONE, memory="the limit")
    assert (found.cause, found.permanent) == (cause, permanent)
    assert text in found.text


def test_the_engines_own_error_is_given_and_not_its_echo_in_the_server() -> None:
    echo = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    assert diagnose([PREFIX + "KeyError: 'lm_head'", echo], ONE).text == "KeyError: 'lm_head'"


def test_the_exception_before_see_stack_trace_above_is_given_even_when_the_server_raised_others_since() -> None:
    lines = [ACCESS, PREFIX + "RuntimeError: the moon is full", DEAD, SERVER + "ValueError: a request that came too late", ACCESS]
    found = diagnose(lines, Ending(code=0))
    assert (found.cause, found.text) == (EngineCause.EXCEPTION, "RuntimeError: the moon is full")


@pytest.mark.parametrize(
    ("signal", "cause", "words"),
    [
        ("SIGILL", EngineCause.ILLEGAL_INSTRUCTION, "an instruction that this CPU lacks, or uses it wrongly"),
        ("SIGSEGV", EngineCause.SEGMENTATION_FAULT, "memory that is not mapped"),
        ("SIGBUS", EngineCause.BUS_ERROR, "/dev/shm is full"),
        ("SIGABRT", EngineCause.ABORTED, "what():  the moon is full"),
        ("SIGKILL", EngineCause.KILLED, "probably because memory ran out: the limit"),
    ],
)
@pytest.mark.parametrize("whose", ["the server's", "the engine process's"])
def test_a_signal_is_given_in_words_and_never_an_access_log_line(signal: str, cause: EngineCause, words: str, whose: str) -> None:
    of_child = f"seatrial: process EngineCore_DP0 (pid 4711) ended by {signal}"
    lines = [f"{START} v on port 2", ACCESS, "  what():  the moon is full", ACCESS]
    if whose == "the server's":
        found = diagnose(lines, Ending(signal=signal), memory="the limit")
    else:
        found = diagnose([*lines, of_child, DEAD, ACCESS], Ending(code=0), memory="the limit")
        assert "the process EngineCore_DP0" in found.text
    assert found.cause is cause
    assert signal in found.text
    assert words in found.text
    assert "/health" not in found.text


@pytest.mark.parametrize("signal", ["SIGILL", "SIGSEGV", "SIGBUS", "SIGKILL", "SIGTERM"])
def test_the_last_output_before_a_signal_is_given(signal: str) -> None:
    lines = [f"{START} v on port 2", "Traceback (most recent call last):", "Loading weights took 0.21 seconds", ACCESS, "INFO 11-21 ready"]
    assert diagnose(lines, Ending(signal=signal)).text.endswith("; its last output: Loading weights took 0.21 seconds")


def test_a_kill_after_the_engines_own_exception_is_the_server_clearing_up() -> None:
    lines = [PREFIX + "KeyError: 'lm_head'", "seatrial: process EngineCore_DP0 (pid 4711) ended by SIGKILL"]
    assert diagnose(lines, ONE).cause is EngineCause.EXCEPTION


def test_an_exit_code_is_given_where_nothing_else_is_known() -> None:
    found = diagnose([f"{START} v on port 2", ACCESS, "INFO 11-21 ready"], Ending(code=3))
    assert (found.cause, found.text) == (EngineCause.EXITED, "it ended with exit code 3 without an error message")
    of_child = diagnose(["seatrial: process EngineCore_DP0 (pid 4711) exited with code 7", DEAD, ACCESS], Ending(code=0))
    assert of_child.cause is EngineCause.EXITED
    assert of_child.text == "the process EngineCore_DP0 ended with exit code 7 without an error message"


def test_of_an_engine_whose_parent_is_gone_it_says_that_the_status_is_not_known() -> None:
    found = diagnose([ACCESS])
    assert found.cause is EngineCause.UNKNOWN
    assert "its exit status is not known" in found.text
    assert "/health" not in found.text
    with_exception = diagnose([PREFIX + "RuntimeError: the moon is full"])
    assert "the moon is full; its exit status is not known" in with_exception.text


@pytest.mark.parametrize(("code", "ending"), [(132, Ending(signal="SIGILL")), (137, Ending(signal="SIGKILL")), (1, ONE), (None, Ending())])
def test_a_containers_exit_code_is_read(code: int | None, ending: Ending) -> None:
    assert Ending.of_container(code) == ending


@pytest.mark.parametrize(
    ("cgroup", "files", "words"),
    [
        ("0::/kube/pod\n", {"kube/memory.max": "4294967296", "kube/pod/memory.max": "max"}, "control group's limit is 4.0 GiB"),
        ("0::/outside\n", {"memory.max": "2147483648"}, "control group's limit is 2.0 GiB"),
        ("5:cpu:/\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "1073741824"}, "control group's limit is 1.0 GiB"),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, "this machine has 24.0 GiB, 3.0 GiB of it available"),
    ],
)
def test_the_memory_limit_is_read(tmp_path: Path, cgroup: str, files: dict[str, str], words: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {24 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {3 * 2**20} kB\n")
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert words in str(memory(tmp_path / "proc", tmp_path / "cgroup"))


def test_this_machine_has_memory() -> None:
    here = memory()
    assert isinstance(here, Memory)
    assert 0 < here.available <= here.total
    assert here.total > GIB / 8


@pytest.mark.parametrize(("code", "shown"), [(-4, "SIGILL"), (-9, "SIGKILL"), (3, "3")])
def test_the_line_that_an_engine_writes_about_a_process_is_understood(code: int, shown: str) -> None:
    line = engine_module("endings").line_of("EngineCore DP0", 4711, code)
    assert shown in diagnose(line.splitlines()).text


def engine_module(name: str) -> ModuleType:
    """Load a module of the engine's environment that needs nothing but the standard library."""
    path = ROOT / "serving/engines/vllm/seatrial_engine" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"seatrial_engine_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
