"""The clusters that these tests share. The first run builds the programs (minutes), later runs find them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.testcluster.cluster import Cluster
from tests.equipment.clusters import own_folder, running_cluster
from tests.equipment.kube_platform import KubePlatform


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One real node. Tests take a namespace of their own and heal what they break."""
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Iterator[KubePlatform]:
    """The platform in pods, by our chart: one for all tests that submit models to it."""
    with own_folder("/tmp/st-kp-") as folder:
        folder.chmod(0o755)  # pods are not root
        with KubePlatform(cluster, folder) as platform:
            yield platform
