"""The little of the API that bringing a cluster up needs: one GET, and `kubectl` for everything else."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.errors import Fault, Transient
from core.ports.clock import Clock
from core.settings import base_environ
from infra.testcluster.certificates import Pair

_ASK_LIMIT_S = 5.0
_KUBECTL_LIMIT_S = 60.0
_PAUSE_S = 0.1

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks the API server as the administrator."""

    server: str
    authority: Path
    pair: Pair

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the body. Raises OSError and HTTPException while the server is unavailable."""
        url = urlsplit(self.server)
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(self.pair.certificate, self.pair.key)
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=_ASK_LIMIT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def condition(self, path: str, name: str) -> bool:
        """Say whether the object at `path` has this condition with status True."""
        status, body = self.get(path)
        if status != http.client.OK:
            return False
        conditions = json.loads(body).get("status", {}).get("conditions") or ()
        return any(entry["type"] == name and entry["status"] == "True" for entry in conditions)

    def answers(self, path: str) -> bool:
        """Say whether a GET of `path` is answered with 200."""
        return self.get(path)[0] == http.client.OK


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl as the administrator, or as another by `kubeconfig`."""

    program: Path
    kubeconfig: Path

    def __call__(self, *arguments: str, given: str | None = None) -> str:
        """Run and return what it prints. Raises Fault with its own words."""
        done = subprocess.run(
            [str(self.program), "--kubeconfig", str(self.kubeconfig), *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=_KUBECTL_LIMIT_S,
            env=base_environ(),
        )
        if done.returncode:
            raise Fault(f"kubectl {' '.join(arguments[:3])}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def apply(self, manifests: Sequence[Manifest]) -> None:
        """Apply objects by server-side apply, as field manager `seatrial-cluster`."""
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self("apply", "--server-side", "--force-conflicts", "--field-manager=seatrial-cluster", "-f", "-", given=body)


def wait_until(what: str, ready: Callable[[], bool], clock: Clock, limit_s: float, *, why: Callable[[], str] = lambda: "") -> None:
    """Wait until `ready` returns True; an unavailable API server is not ready. Raises Transient with `why` after `limit_s` seconds."""
    deadline = clock.monotonic() + limit_s
    while True:
        try:
            if ready():
                return
        except (OSError, http.client.HTTPException, ValueError):
            pass  # not there yet
        if clock.monotonic() > deadline:
            raise Transient(f"{what} is not ready after {limit_s:.0f} s; {why()[-900:]}", hint="read its log, then try again")
        clock.wait(_PAUSE_S)
