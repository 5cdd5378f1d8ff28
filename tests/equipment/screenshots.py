"""Screenshots of Prefect's and MLflow's pages after a stack ran submissions, for docs/images.

    python -m tests.equipment.screenshots HOME [FOLDER]

HOME is the home of a stack that runs. Needs Debian's `chromium`. It is driven by its DevTools protocol: a page is taken once a text
that shows that its data arrived is on it, so a loaded machine gives the same pictures as an idle one.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect
from websockets.sync.connection import Connection

CHROMIUM = "/usr/bin/chromium"
SIZE = (1400, 900)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
_LIMIT_S = 300.0
_SETTLE_S = 8.0
"""After the data is there the page still draws: fonts, charts."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: the page, a text that is on it once its data is there, and a text that is clicked first where that is needed."""

    name: str
    url: str
    text: str
    click: str = ""
    height: int = SIZE[1]


class Page:
    """One tab, driven by the DevTools protocol."""

    def __init__(self, socket: Connection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=_QUIET)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_LIMIT_S))
            if answer.get("id") == number:
                return dict(answer.get("result", {}))

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True).get("result", {}).get("value")

    def take(self, shot: Shot, file: Path) -> None:
        """Open a page, wait for its text, and write the picture."""
        self.call("Emulation.setDeviceMetricsOverride", width=SIZE[0], height=shot.height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=shot.url)
        self._await(shot.click or shot.text)
        if shot.click:
            self.value(_CLICK.replace("TEXT", json.dumps(shot.click)))
            self._await(shot.text)
        threading.Event().wait(_SETTLE_S)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _await(self, text: str) -> None:
        until = time.monotonic() + _LIMIT_S
        while time.monotonic() < until:
            if self.value(f"document.body && document.body.innerText.includes({json.dumps(text)})"):
                return
            threading.Event().wait(0.3)
        raise AssertionError(f"{text!r} was not on the page within {_LIMIT_S:.0f} s: {str(self.value('document.body.innerText'))[:500]}")


_QUIET = """
try {
  localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
  localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
} catch (error) {}
"""
"""MLflow's assistant covers a third of the page until a user closes it."""
_CLICK = """
(() => {
  const found = [...document.querySelectorAll('a, button, [role=tab], label, li')].filter(e => e.innerText && e.innerText.trim() === TEXT);
  if (found.length) found[found.length - 1].click();
})()
"""


@contextmanager
def chromium() -> Iterator[Page]:
    """Start a browser on an empty profile, and end it."""
    with tempfile.TemporaryDirectory(prefix="screenshots-", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                port = _port(Path(profile) / "DevToolsActivePort")
                tabs = httpx.get(f"http://127.0.0.1:{port}/json", timeout=_LIMIT_S, trust_env=False).json()
                address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                with connect(address, max_size=None, open_timeout=_LIMIT_S, proxy=None) as socket:
                    yield Page(socket)
            finally:
                browser.terminate()


def _port(file: Path) -> int:
    until = time.monotonic() + _LIMIT_S
    while time.monotonic() < until:
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        threading.Event().wait(0.1)
    raise AssertionError(f"{CHROMIUM} did not start within {_LIMIT_S:.0f} s")


def shots(prefect: str, mlflow: str, endpoint: str) -> Iterator[Shot]:
    """Yield the pictures of a platform that brought a model to `endpoint`."""
    api = f"{prefect}/api"
    runs = _post(f"{api}/flow_runs/filter", {"flows": {"name": {"any_": ["deploy-model"]}}, "sort": "START_TIME_DESC"})
    run = next(run for run in runs if run["name"].endswith(f"-> {endpoint}") and run["state"]["type"] == "COMPLETED")
    page = f"{prefect}/runs/flow-run/{run['id']}"
    yield Shot("prefect-runs", f"{prefect}/runs", run["name"], height=1400)
    yield Shot("prefect-run", page, "announce")
    yield Shot("prefect-deployments", f"{prefect}/deployments", "on-demand")
    yield Shot("prefect-artifacts", f"{prefect}/artifacts", f"endpoint-{endpoint}")
    model = "model-" + run["name"].partition(" ->")[0].replace("/", "-").lower()
    found = _post(f"{api}/artifacts/latest/filter", {"artifacts": {"key": {"any_": [model]}}})
    yield Shot("prefect-artifact", f"{prefect}/artifacts/artifact/{found[0]['latest_id']}", "Trials")
    experiments = {
        one["name"]: one["experiment_id"] for one in _post(_mlflow(mlflow, "experiments/search"), {"max_results": 100})["experiments"]
    }
    yield Shot("mlflow-experiments", f"{mlflow}/#/experiments", f"{endpoint}/benchmarks")
    benchmarks = experiments[f"{endpoint}/benchmarks"]
    found = _post(_mlflow(mlflow, "runs/search"), {"experiment_ids": [benchmarks]})["runs"]
    curve = next(run for run in found if "over time" in run["info"]["run_name"])["info"]
    yield Shot("mlflow-benchmarks", f"{mlflow}/#/experiments/{benchmarks}/runs", curve["run_name"])
    one = next(run for run in found if "over time" not in run["info"]["run_name"])["info"]
    yield Shot("mlflow-run", f"{mlflow}/#/experiments/{benchmarks}/runs/{one['run_id']}", "pass at 1")
    yield Shot("mlflow-model", f"{mlflow}/#/models/{endpoint}", "champion")
    yield Shot("mlflow-version", f"{mlflow}/#/models/{endpoint}/versions/1", "Prefect run")


def _mlflow(url: str, path: str) -> str:
    return f"{url}/api/2.0/mlflow/{path}"


def _post(url: str, body: dict[str, Any]) -> Any:
    return httpx.post(url, json=body, timeout=_LIMIT_S, trust_env=False).raise_for_status().json()


def main(home: Path, folder: Path, endpoint: str = "chat") -> None:
    """Take all pictures."""
    ports = json.loads((home / "run" / "stack.json").read_text())["ports"]
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as page:
        for shot in shots(f"http://127.0.0.1:{ports['prefect']}", f"http://127.0.0.1:{ports['mlflow']}", endpoint):
            file = folder / f"{shot.name}.png"
            page.take(shot, file)
            sys.stdout.write(f"{file} {file.stat().st_size / 1024:.0f} KiB\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"), *sys.argv[3:4])
