"""How often the whole verdict rolls an equal candidate back, and how soon a worse one. Simulated rollouts, the real `judge`.

Alone: `python -m tests.bench.bench_verdict [RUNS]`, RUNS for each case at the rates of 5 and 20 %; 60 take some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from core.endpoints import BadEvent
from tests.equipment.verdict_world import Case, End, equal_cases, rate_of, rollouts

RUNS = 60
PACES = {1.0: "equal", 0.25: "faster", 4.0: "slower"}
_RARE = 0.01
"""At this rate and below a rollout has few bad answers, and its e-value few values: a quarter of the runs are enough."""
CHANGES = ((0.001, 0.05), (0.01, 0.05), (0.05, 0.2), (0.2, 0.5), (0.01, 0.9))


def bench(runs: int = RUNS) -> dict[str, Any]:
    """Return the false rollbacks of equal candidates, and the detection of worse ones."""
    begin = perf_counter()
    equal = [(case, rollouts(case, runs if case.rate > _RARE else -(-runs // 4), seed)) for seed, case in _numbered(equal_cases())]
    worse = [(case, rollouts(case, runs, seed)) for seed, case in _numbered(_worse_cases())]
    of_kinds = {str(kind): [(case, ends) for case, ends in equal if case.kind is kind] for kind in BadEvent}
    return {
        "runs a case": runs,
        "runs": sum(len(ends) for _case, ends in equal + worse),
        "false rollbacks": {kind: _by_rate(rows) for kind, rows in of_kinds.items()},
        "false rollbacks by share": _by(equal, lambda case: "steps" if len(case.shares) > 1 else f"{case.shares[0]:.0%}"),
        "false rollbacks by pace": _by(equal, lambda case: PACES[case.pace]),
        "false rollbacks by answers": _by(equal, lambda case: "1" if case.answers == 1 else f"1 to {case.answers}"),
        "worst case": _worst(equal),
        "detection": [_found(case, ends) for case, ends in worse],
        "seconds": perf_counter() - begin,
    }


def _numbered(cases: Iterable[Case]) -> Iterable[tuple[int, Case]]:
    return ((1_000_000 * number, case) for number, case in enumerate(cases, 1))


def _worse_cases() -> Iterable[Case]:
    for kind in BadEvent:
        for rate, worse in CHANGES:
            for share in (0.05, 0.25, 0.5):
                yield Case(kind, rate, worse, (share,), conversations=4000, look_s=5.0)
        for pace in PACES:
            for answers in (1, 3):
                if (pace, answers) != (1.0, 1):
                    yield Case(kind, 0.01, 0.05, (0.25,), pace, answers, conversations=4000, look_s=5.0)


def _by_rate(rows: list[tuple[Case, list[End]]]) -> dict[str, str]:
    """Return, by rate, the part of all runs that were rolled back and the largest part of one case."""
    told = {}
    for rate in sorted({case.rate for case, _ends in rows}):
        mine = [ends for case, ends in rows if case.rate == rate]
        told[f"{rate:.1%}"] = f"{rate_of([end for ends in mine for end in ends]):.1%} ({max(map(rate_of, mine)):.1%})"
    return told


def _by(rows: list[tuple[Case, list[End]]], named: Callable[[Case], str]) -> dict[str, str]:
    parts: dict[str, list[End]] = {}
    for case, ends in rows:
        if case.rate > _RARE:
            parts.setdefault(named(case), []).extend(ends)
    return {name: f"{rate_of(ends):.1%}" for name, ends in parts.items()}


def _worst(rows: list[tuple[Case, list[End]]]) -> str:
    case, ends = max((row for row in rows if row[0].rate > _RARE), key=lambda row: rate_of(row[1]))
    return f"{rate_of(ends):.1%} of {len(ends)}: {case}"


def _found(case: Case, ends: list[End]) -> dict[str, Any]:
    found = [end if end.rolled_back else replace(end, conversations=case.conversations) for end in ends]
    return {
        "kind": str(case.kind), "change": f"{case.rate:.1%} to {case.worse:.0%}", "share": f"{case.shares[0]:.0%}",
        "candidate": PACES[case.pace], "answers": case.answers, "found": f"{rate_of(ends):.1%}",
        "conversations": median(end.conversations for end in found), "of them the candidate's": median(end.candidates for end in found),
    }  # fmt: skip


def tables(found: dict[str, Any]) -> list[Table]:
    """Return what `bench` found, for people."""
    title = f"The verdict on equal candidates: rolled back, of all runs (of the worst case); {found['runs a case']} runs a case"
    false = Table("stable and candidate", *found["false rollbacks"], title=title, title_justify="left")
    for rate in next(iter(found["false rollbacks"].values())):
        false.add_row(rate, *(row[rate] for row in found["false rollbacks"].values()))
    parts = Table("at 5 and 20 %", "rolled back", title=f"The worst case: {found['worst case']}", title_justify="left")
    for what in ("share", "pace", "answers"):
        for name, rate in found[f"false rollbacks by {what}"].items():
            parts.add_row(f"{what} {name}", rate)
    worse = Table(*found["detection"][0], title="The verdict on worse candidates (medians)", title_justify="left")
    for row in found["detection"]:
        worse.add_row(*map(str, row.values()))
    return [false, parts, worse]


def main() -> None:
    """Measure and print."""
    found = bench(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
    Console(width=140).print(*tables(found), f"{found['runs']} runs in {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
