"""The sandbox judges mutants of HumanEval's solutions, changed imports and annotations included, as plain Python does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from core.programs import Program, RunOutcome
from evals.sandbox import ProcessSandbox
from tests.contract import plain_python
from tests.contract.humaneval import canonical, problems
from tests.contract.mutations import surface_mutants

SEED = 13
FEW, MANY = 60, 656


def differences(programs: Sequence[Program], folder: Path) -> list[tuple[str, bool, str, str]]:
    """Return (program, whether plain Python passes it, outcome and detail here, code) of those on which the two disagree."""
    sandbox = ProcessSandbox(2, folder / "scratch")
    results = sandbox.run(programs)
    sandbox.close()
    plain = plain_python.all_pass(list(programs), folder)
    found = [
        (result.id, passes, f"{result.outcome} {result.detail}", program.code)
        for program, passes, result in zip(programs, plain, results, strict=True)
        if (result.outcome is RunOutcome.PASSED) is not passes or result.outcome is RunOutcome.SANDBOX_FAULT
    ]
    assert len(programs) // 10 < sum(plain) < len(programs), "mutants that pass, and mutants that fail"
    return found


def without_imports() -> list[Program]:
    """Return the canonical solutions without the lines of their prompt that import names for annotations."""
    whole = [canonical(problem) for problem in problems() if "from typing" in problem.prompt]
    codes = ["".join(line for line in one.code.splitlines(keepends=True) if not line.startswith("from typing")) for one in whole]
    return [Program(one.id, code, one.check, one.entry_point, cpu_s=3.0, given=one.given) for one, code in zip(whole, codes, strict=True)]


def test_mutants_are_the_same_for_the_same_seed_and_differ_from_one_another() -> None:
    some = [mutant.code for mutant in surface_mutants(problems(), FEW, SEED)]
    assert some == [mutant.code for mutant in surface_mutants(problems(), FEW, SEED)]
    assert len(set(some)) > FEW * 0.9


def test_verdicts_on_some_mutants_agree_with_plain_python(tmp_path: Path) -> None:
    assert differences(surface_mutants(problems(), FEW, SEED), tmp_path) == []


@pytest.mark.release
def test_verdicts_on_all_mutants_agree_with_plain_python(tmp_path: Path) -> None:
    assert differences(surface_mutants(problems(), MANY, SEED), tmp_path) == []


def test_solutions_without_the_imports_of_their_annotations_fail_as_in_plain_python(tmp_path: Path) -> None:
    programs = without_imports()
    results = ProcessSandbox(2, tmp_path / "scratch").run(programs)
    passed = {result.id for result in results if result.outcome is RunOutcome.PASSED}
    plain = plain_python.all_pass(programs, tmp_path)
    assert passed == {program.id for program, passes in zip(programs, plain, strict=True) if passes}
    assert len(programs) > 20 > len(passed)
