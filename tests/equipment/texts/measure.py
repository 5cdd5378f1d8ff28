"""Print the tables of docs/degeneration.md: what the measure finds in the texts, by kind. `python -m tests.equipment.texts.measure`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import fmean

from evals.degeneration import LOW_LOGPROB
from tests.equipment.texts import LOW_STABLE_LOGPROB, Labelled, bad, natural


def main() -> None:
    """Print both tables."""
    said = ["| kind of text | set | texts | loop | nonsense |", "|---|---|---|---|---|"]
    said += [_natural(name, rows) for name, rows in _groups(natural(), lambda one: one.kind.split()[0])]
    said += [
        "",
        "| kind | set | texts | loop | nonsense | either | own log-probability low | low under the stable model |",
        "|" + "---|" * 8,
    ]
    said += [_bad(name, rows) for name, rows in _groups(bad(), lambda one: f"{one.bad}: {one.kind}")]
    sys.stdout.write("\n".join(said) + "\n")


def _natural(name: str, rows: Sequence[Labelled]) -> str:
    judged = [one.judge() for one in rows]
    return f"| {name} | {_set(rows)} | {len(rows)} | {sum(one.looped for one in judged)} | {sum(one.nonsense.found for one in judged)} |"


def _bad(name: str, rows: Sequence[Labelled]) -> str:
    judged = [one.judge() for one in rows]
    counts = (sum(one.looped for one in judged), sum(one.nonsense.found for one in judged), sum(one.degenerate for one in judged))
    shown = " | ".join(map(str, (*counts, _low([one.logprob for one in rows], LOW_LOGPROB), _stable(rows))))
    return f"| {name} | {_set(rows)} | {len(rows)} | {shown} |"


def _stable(rows: Sequence[Labelled]) -> str:
    return _low([one.stable_logprob for one in rows], LOW_STABLE_LOGPROB)


def _low(values: Sequence[float | None], limit: float) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(value < limit for value in known)} (mean {fmean(known):.1f})" if known else "-"


def _set(rows: Sequence[Labelled]) -> str:
    sets = {"held out" if one.held_out else "calibration" for one in rows}
    return "both" if len(sets) > 1 else sets.pop()


def _groups(rows: Sequence[Labelled], name: Callable[[Labelled], str]) -> list[tuple[str, list[Labelled]]]:
    return [(key, list(group)) for key, group in groupby(sorted(rows, key=name), name)]


if __name__ == "__main__":
    main()
