"""A process that appends to a spool until it is killed, and tells on stdout what was acknowledged: `ledger_child.py FOLDER`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from core.ports.ledger import Reservation
from registry.database import open_database
from registry.ledger import SpoolLedger
from tests.equipment.samples import a_completion, a_vote, an_assignment


def main(folder: Path) -> None:
    ledger = SpoolLedger(folder, open_database(f"sqlite:///{folder}/never.db").conversations, segment_bytes=20_000)
    number = 0
    while True:
        number += 1
        completion = a_completion(number, f"conv-{number % 7}")
        ledger.reserve(Reservation(replace(completion, usage=None), an_assignment(completion.conversation)))
        tell("reserved", number)
        if number % 3:
            ledger.settle(completion)
            tell("settled", number)
        if number % 10 == 1:
            ledger.vote(a_vote(number, completion.conversation))
            tell("voted", number)


def tell(verb: str, number: int) -> None:
    sys.stdout.write(f"{verb} {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
