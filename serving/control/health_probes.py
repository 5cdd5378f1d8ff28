"""`HealthProbes` over HTTP and on this machine's files. Prefect and MLflow are probed through their REST APIs, without an SDK."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import httpx

from core.flow_runs import DEPLOY
from core.health import Disk, Service, Spool
from core.ids import Epoch

_TIMEOUT_S = 3.0


class LocalHealthProbes:
    """Probes the services at their URLs (`health` by name), the home and the spool."""

    def __init__(self, health: Mapping[str, str], prefect_api_url: str, home: Path, spool: Path) -> None:
        self._health = dict(health)
        self._prefect = prefect_api_url.rstrip("/")
        self._home = home
        self._spool = spool

    def services(self) -> tuple[Service, ...]:
        """Ask all of them at once. See the port."""
        if not self._health:
            return ()
        with ThreadPoolExecutor(len(self._health)) as pool:
            return tuple(pool.map(_asked, self._health.items()))

    def runner_seen(self) -> Epoch | None:
        """Return `last_polled` of the deployment that brings submissions. See the port."""
        try:
            answer = httpx.get(f"{self._prefect}/deployments/name/{DEPLOY}", timeout=_TIMEOUT_S, trust_env=False).raise_for_status()
            polled = answer.json()["last_polled"]
            return datetime.fromisoformat(polled).timestamp() if polled else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None  # away, or something else answers at its address

    def disk(self) -> Disk | None:
        """See the port."""
        try:
            found = shutil.disk_usage(self._home)
        except OSError:
            return None
        return Disk(found.free, found.total)

    def spool(self) -> Spool | None:
        """Add up the segments; the youngest is being written and waits for nothing yet. See the port."""
        try:
            found = sorted((path.name, path.stat()) for path in self._spool.glob("*.log"))
            rejected = sum(path.read_bytes().count(b"\n") for path in (self._spool / "rejected").glob("*.log"))
        except OSError:
            return None  # a segment was shipped while we looked, or the folder is not ours to read
        if not self._spool.is_dir():
            return None
        written = [status for _name, status in found if status.st_size]
        return Spool(sum(status.st_size for status in written), min((status.st_mtime for status in written), default=None), rejected)


class NoHealthProbes:
    """Probes nothing: a control API with its records alone."""

    def services(self) -> tuple[Service, ...]:
        """Return none."""
        return ()

    def runner_seen(self) -> Epoch | None:
        """Return None."""
        return None

    def disk(self) -> Disk | None:
        """Return None."""
        return None

    def spool(self) -> Spool | None:
        """Return None."""
        return None


def _asked(service: tuple[str, str]) -> Service:
    name, url = service
    try:
        answer = httpx.get(url, timeout=_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        return Service(name, url, f"{url} does not answer: {error or type(error).__name__}")
    return Service(name, url, "" if answer.is_success else f"{url} answers {answer.status_code}")
