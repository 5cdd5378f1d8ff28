"""`python -m infra.entrypoints.engines`: the engine supervisor of one machine."""

from __future__ import annotations

import signal
import threading

from core.settings import read_settings
from wiring.engines import engine_supervisor


def main() -> None:
    """Supervise the engines until SIGTERM, which stops them and keeps their desired states."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    engine_supervisor(read_settings()).run(over)


if __name__ == "__main__":
    main()
