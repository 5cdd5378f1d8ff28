"""Autoscaling with real KEDA: under load a second engine comes, in quiet it goes, and nobody notices but by the speed."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from core.engines import EnginePhase
from infra.cluster.cluster import Cluster
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.kinds import SCALED_OBJECTS
from tests.equipment.kube_real import admin_client, engines_on, fake_place, namespace
from tests.equipment.kube_stage import eventually
from tests.equipment.kube_yard import Yard, bare_image

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]

LIMIT_S = 240.0
STREAMS = 8


@dataclass
class Load:
    """Clients that stream answers one after the other, each on a connection of its own, and mark every answer as whole or not."""

    address: str
    whole: int = 0
    broken: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int) -> None:
        for number in range(clients):
            thread = threading.Thread(target=self._stream, args=(number,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)

    def _stream(self, number: int) -> None:
        count = 0
        while not self.stop.is_set():
            count += 1
            try:
                said = self._answer(f"client-{number}-{count}")
                whole = "data: [DONE]" in said
            except OSError as error:
                said, whole = repr(error), False
            if whole:
                self.whole += 1
            else:
                self.broken.append(said[-200:])

    def _answer(self, request: str) -> str:
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)
        body = json.dumps({"prompt": "def", "stream": True, "max_tokens": 20})
        connection.request("POST", "/v1/completions", body=body, headers={"X-Request-Id": request})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return text if response.status == 200 else f"status {response.status}"


@pytest.fixture
def yard(cluster: Cluster, tmp_path: Path) -> Iterator[Yard]:
    cluster.add("keda")
    image = bare_image(cluster, tmp_path)
    with namespace(cluster.kubeconfig) as space:
        where = fake_place(
            space.namespace, image, folders=(tmp_path,), max_engines=2, target_requests=2.0, scale_down_s=20.0, pre_stop_s=5.0
        )
        engines = engines_on(admin_client(cluster.kubeconfig), where, tmp_path)
        yield Yard(space, engines, tmp_path)
        for state in engines.list():
            engines.stop(state.version, drain_s=0)
        eventually(lambda: not space.list(kinds.PODS).items and not space.list(SCALED_OBJECTS).items, limit_s=60.0)
        engines.close()


def replicas(yard: Yard) -> int:
    return int(yard.space.list(kinds.DEPLOYMENTS).items[0]["spec"]["replicas"])


def test_load_brings_a_second_engine_and_quiet_takes_it_away_and_no_stream_is_cut(yard: Yard) -> None:
    spec = yard.spec(1, token_s=0.2)
    yard.engines.apply(spec)
    ready = yard.wait_for(spec.version, EnginePhase.READY)
    (scaled,) = yard.space.list(SCALED_OBJECTS).items
    assert scaled["spec"]["triggers"][0]["type"] == "metrics-api"
    load = Load(ready.address or "")
    load.start(STREAMS)
    eventually(lambda: replicas(yard) == 2, limit_s=LIMIT_S)
    eventually(lambda: yard.engines.state(spec.version).detail.startswith("2 of 2"), limit_s=LIMIT_S)
    load.end()
    trickle = Load(ready.address or "")
    trickle.start(1)
    yard.engines.apply(spec)
    eventually(lambda: replicas(yard) == 1, limit_s=LIMIT_S)
    eventually(lambda: len(yard.space.list(kinds.PODS).items) == 1, limit_s=LIMIT_S)
    trickle.end()
    assert load.broken == trickle.broken == []
    assert load.whole > STREAMS
    assert trickle.whole > 1
