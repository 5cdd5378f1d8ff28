"""The dispatcher against Prefect's own server: the work pool with the chart's template, and every deployment in it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from core.settings import read_settings
from infra.entrypoints.deployments import deployments
from infra.entrypoints.dispatcher import register
from tests.equipment.chart_objects import VARIANTS, objects, of_kind

pytestmark = pytest.mark.slow


def test_entering_the_pool_twice_leaves_one_with_the_charts_template_and_every_deployment(tmp_path: Path):
    found = objects(*VARIANTS["jobs"])
    template = tmp_path / "job-template.json"
    template.write_text(next(i["data"]["job-template.json"] for i in of_kind(found, "ConfigMap") if "job-template.json" in i["data"]))
    settings = read_settings({"HOME": str(tmp_path)})

    async def run() -> None:
        await register(settings, "seatrial", template)
        await register(settings, "seatrial", template)
        async with get_client() as client:
            (pool,) = await client.read_work_pools()
            assert (pool.name, pool.type) == ("seatrial", "kubernetes")
            assert pool.base_job_template == json.loads(template.read_text())
            pooled = list(deployments(settings))
            for entry in pooled:
                deployment = await client.read_deployment_by_name(f"{entry.flow.name}/{entry.name}")
                assert deployment.work_pool_name == "seatrial"
                assert deployment.entrypoint is not None
                assert ":" not in deployment.entrypoint  # a module, which the image has, and not a file of this machine
                assert "set_working_directory" in str(deployment.pull_steps)  # where the code is; nothing is copied
                assert len(deployment.schedules) == bool(entry.options.get("interval") or entry.options.get("cron"))
            assert len(await client.read_deployments()) == len(pooled)

    with prefect_test_harness(server_startup_timeout=180):
        asyncio.run(run())
