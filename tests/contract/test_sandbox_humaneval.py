"""The sandbox judges HumanEval as its authors' harness does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.programs import Program, RunOutcome
from evals.sandbox import ProcessSandbox
from tests.contract import reference_harness
from tests.contract.humaneval import canonical, mutants, problems

LEVELS = {"all": (True, True), "no_namespaces": (False, True), "least": (False, False)}


@pytest.mark.parametrize("level", LEVELS)
def test_every_canonical_solution_passes(tmp_path: Path, level: str) -> None:
    namespaces, landlock = LEVELS[level]
    results = ProcessSandbox(2, tmp_path, namespaces=namespaces, landlock=landlock).run([canonical(problem) for problem in problems()])
    assert len(results) == 164
    assert [result for result in results if result.outcome is not RunOutcome.PASSED] == []


def test_mutants_are_always_the_same_and_differ_from_one_another() -> None:
    few = problems()[:20]
    codes = [mutant.code for problem in few for mutant in mutants(problem, 4)]
    assert codes == [mutant.code for problem in few for mutant in mutants(problem, 4)]
    assert len(set(codes)) == len(codes)


@pytest.mark.slow
def test_verdicts_agree_with_the_reference_harness_on_canonical_solutions_and_mutants(tmp_path: Path) -> None:
    changed = [mutant for problem in problems() for mutant in mutants(problem, 4)]
    programs = [*(canonical(problem) for problem in problems()), *changed]
    assert len(changed) >= 600
    ours = [result.outcome is RunOutcome.PASSED for result in ProcessSandbox(2, tmp_path).run(programs)]
    theirs = _reference(programs)
    different = [(program.id, own, other) for program, own, other in zip(programs, ours, theirs, strict=True) if own != other]
    assert different == [], "(program, passes here, passes there)"
    assert 20 < sum(theirs[164:]) < 600, "mutants that nothing tells from the solution, and mutants that are wrong"


def _reference(programs: Sequence[Program]) -> list[bool]:
    asked = json.dumps([[program.code, program.check, program.entry_point] for program in programs])
    done = subprocess.run(
        [sys.executable, reference_harness.__file__], input=asked, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    passed: list[bool] = json.loads(done.stdout)
    return passed
