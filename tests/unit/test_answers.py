"""The answers of benchmarks on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.benchmarks import BenchmarkState
from core.errors import Fault, NotFound, Transient
from registry.answers import Answers
from tests.equipment.fakes import FakeHistory
from tests.equipment.samples import a_benchmark, a_sample

ROW = a_benchmark(state=BenchmarkState.DONE)
SAMPLES = (a_sample(0, text="\ud800 lone"), a_sample(1, passed=False))


def test_what_is_packed_is_read_again_and_equal_samples_make_equal_bytes(tmp_path: Path):
    answers = Answers(tmp_path, FakeHistory())
    first = answers.pack(ROW.id, SAMPLES).read_bytes()
    assert answers.read(ROW) == SAMPLES
    assert answers.pack(ROW.id, SAMPLES).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["bm-1.rows.jsonl.gz"]


def test_a_benchmark_without_answers_is_not_found(tmp_path: Path):
    with pytest.raises(NotFound, match="bm-1"):
        Answers(tmp_path, FakeHistory()).read(a_benchmark())


def test_a_history_that_is_away_is_transient(tmp_path: Path):
    history = FakeHistory()
    history.away = True
    with pytest.raises(Transient):
        Answers(tmp_path, history).read(a_benchmark(rows_uri="fake:bm-1"))


@pytest.mark.parametrize("damage", [b"no gzip", b"\x1f\x8b", b""])
def test_damaged_rows_are_a_fault_that_names_the_file(tmp_path: Path, damage: bytes):
    answers = Answers(tmp_path, FakeHistory())
    path = answers.pack(ROW.id, SAMPLES)
    path.write_bytes(damage or path.read_bytes()[:-12])
    with pytest.raises(Fault, match="bm-1"):
        answers.read(ROW)


def test_forgetting_what_is_gone_does_nothing(tmp_path: Path):
    answers = Answers(tmp_path, FakeHistory())
    answers.growing(ROW.id).write_text("{}")
    answers.forget_growing(ROW.id)
    answers.forget_growing(ROW.id)
    assert list(tmp_path.iterdir()) == []
