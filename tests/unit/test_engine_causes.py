"""What an engine's log says about why it did not start."""

from __future__ import annotations

import pytest

from serving.engines.causes import START, Mends, cause, who_mends

PREFIX = "(EngineCore pid=4711) ERROR 11-21 04:52:00 [core.py:1188] "


@pytest.mark.parametrize(
    ("line", "text", "permanent"),
    [
        (PREFIX + "seatrial: weights refused: a.bin: 3 bytes, tensors.json says 4; tensorize again", "weights refused: a.bin", True),
        ("seatrial: weights not readable: s3://b/k: no credentials", "weights cannot be read: s3://b/k: no credentials", False),
        ("ValueError: Model architectures ['Foo'] are not supported for now.", "does not serve this architecture: ['Foo']", True),
        (PREFIX + "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "out of memory", False),
        ("OSError: [Errno 98] Address already in use", "port was taken", False),
        ("/bin/python: ModuleNotFoundError: No module named 'vllm'", "lacks 'vllm'", False),
        ("OSError: [Errno 28] No space left on device", "the disk is full", False),
        ("ValueError: User-specified max_model_len (4096) is greater than the derived max_model_len (1024)", "does not fit", True),
        (PREFIX + "RuntimeError: the moon is full", "RuntimeError: the moon is full", False),
        ("it said only this", "it said only this", False),
    ],
)
def test_the_cause_is_found(line: str, text: str, permanent: bool) -> None:
    found = cause([f"{START} old on port 1", "seatrial: weights refused: of an earlier start", f"{START} v on port 2", "INFO ok", line, ""])
    assert text in found.text
    assert found.permanent is permanent


def test_the_engines_own_error_is_told_and_not_its_echo_in_the_server() -> None:
    lines = [
        PREFIX + "KeyError: 'lm_head'",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert cause(lines).text == "KeyError: 'lm_head'"


def test_an_engine_that_said_nothing_has_a_cause_too() -> None:
    assert cause([]).text == "it ended without a word"


@pytest.mark.parametrize(
    ("line", "mends"),
    [
        ("seatrial: weights refused: a.bin: 3 bytes", Mends.SUBMITTER),
        ("ValueError: Model architectures ['Foo'] are not supported for now.", Mends.SUBMITTER),
        ("OSError: Can't load tokenizer for 'x'", Mends.SUBMITTER),
        ("ValueError: User-specified max_model_len (4096) is greater", Mends.SUBMITTER),
        ("seatrial: weights not readable: s3://b/k: no credentials", Mends.OPERATOR),
        ("OSError: [Errno 98] Address already in use", Mends.OPERATOR),
        ("ModuleNotFoundError: No module named 'vllm'", Mends.OPERATOR),
        ("OSError: [Errno 28] No space left on device", Mends.OPERATOR),
        ("torch.OutOfMemoryError: CUDA out of memory", Mends.EITHER),
        ("RuntimeError: the moon is full", Mends.EITHER),
    ],
)
def test_who_can_mend_a_cause_is_told(line: str, mends: Mends) -> None:
    assert who_mends(cause([line]).text) is mends
