"""`python -m infra.entrypoints.gateway`: the gateway of one machine."""

from __future__ import annotations

from urllib.parse import urlsplit

import uvicorn

from core.settings import read_settings
from wiring import Platform
from wiring.apps import gateway_app

_DRAIN_S = 30
_KEEP_ALIVE_S = 75
"""Idle connections are kept longer than clients and load balancers keep theirs (60 s): who closes first must not be us, in the very moment
in which a request is on its way."""


def main() -> None:
    """Serve until SIGTERM; in-flight answers finish."""
    settings = read_settings()
    url = urlsplit(settings.gateway_url)
    uvicorn.run(
        gateway_app(Platform(settings)),
        host=settings.bind_host or url.hostname or "127.0.0.1",
        port=url.port or 8800,
        loop="uvloop",
        http="httptools",
        access_log=False,
        server_header=False,
        log_level=settings.log_level.lower(),
        timeout_graceful_shutdown=_DRAIN_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )


if __name__ == "__main__":
    main()
