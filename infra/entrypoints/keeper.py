"""`python -m infra.entrypoints.keeper`: keeps the local engines as the wishes say."""

from __future__ import annotations

import signal
import threading

from core.settings import read_settings
from wiring import engine_keeper


def main() -> None:
    """Keep engines until SIGTERM, which stops them but keeps the wishes."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    engine_keeper(read_settings()).run(over)


if __name__ == "__main__":
    main()
