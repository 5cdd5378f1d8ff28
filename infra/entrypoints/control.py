"""`python -m infra.entrypoints.control`: the API that the client talks to."""

from __future__ import annotations

from urllib.parse import urlsplit

import uvicorn

from core.settings import read_settings
from wiring import Platform
from wiring.apps import control_app


def main() -> None:
    """Serve until SIGTERM."""
    settings = read_settings()
    url = urlsplit(settings.control_url)
    uvicorn.run(
        control_app(Platform(settings)),
        host=settings.bind_host or url.hostname or "127.0.0.1",
        port=url.port or 8700,
        access_log=False,
        server_header=False,
        log_level=settings.log_level.lower(),
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,  # longer than load balancers keep theirs
    )


if __name__ == "__main__":
    main()
