"""The fake engine behind the real fork server: `python -m tests.equipment.fake_fork_server --fork-server SOCKET`, or engine flags.

Needs `seatrial_engine` on the path; its fork server uses the standard library only.
"""

from __future__ import annotations

import importlib
import sys

from tests.equipment import fake_engine


def main() -> None:
    argv = sys.argv[1:]
    if argv[:1] == ["--fork-server"]:
        fork_server = importlib.import_module("seatrial_engine.fork_server")  # not in the platform's environment
        argv = list(fork_server.serve_forks(argv[1]))
    sys.argv = ["fake_fork_server", *argv]
    fake_engine.main()


if __name__ == "__main__":
    main()
