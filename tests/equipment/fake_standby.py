"""The fake engine behind the real standby protocol: `python -m tests.equipment.fake_standby --standby SOCKET`, or an engine's flags.

Needs `seatrial_engine` on the path; its standby uses the standard library only.
"""

from __future__ import annotations

import importlib
import sys

from tests.equipment import fake_engine


def main() -> None:
    argv = sys.argv[1:]
    if argv[:1] == ["--standby"]:
        standby = importlib.import_module("seatrial_engine.standby")  # not in the platform's environment
        argv = list(standby.stand_by(argv[1]))
    sys.argv = ["fake_standby", *argv]
    fake_engine.main()


if __name__ == "__main__":
    main()
