"""`python -m infra.entrypoints.dispatcher`: flows on Prefect's Kubernetes work pool, a Job per run; beside Prefect's own worker in one pod.

It enters the work pool with the chart's job template, and the deployments in it, and runs the background services (background.py).
A Job is never retried by Kubernetes (`backoffLimit: 0`): reconcile resumes a run that died, from its rows.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from pathlib import Path
from typing import Any

import click
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined] # where the documentation imports it from
from prefect.runner.storage import LocalStorage

from core.errors import Refused
from core.reasons import Reason
from core.settings import Settings, read_settings
from infra.entrypoints.background import background
from infra.entrypoints.deployments import deployments, remove_former

_TEMPLATE = Path("/etc/seatrial/job-template.json")


async def register(settings: Settings, pool: str, template: Path) -> None:
    """Register pool and deployments; running it again updates them. Raises Refused for a template with automatic retries."""
    document = read_template(template)
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=pool, type="kubernetes", base_job_template=document), overwrite=True)
    entries = tuple(deployments(settings))
    await remove_former(entries)
    for entry in entries:
        deployment = await entry.flow.ato_deployment(work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH, **entry.arguments())
        deployment.storage = LocalStorage(str(Path.cwd()))  # the image has the code; without this every run copies the whole folder first
        await deployment.aapply()


def read_template(path: Path) -> dict[str, Any]:
    """Return the base job template. Raises Refused unless its Jobs are tried once: a retried pod would re-run a crashed flow."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    job = document["job_configuration"]["job_manifest"]["spec"]
    if job.get("backoffLimit") != 0 or job["template"]["spec"].get("restartPolicy") != "Never":
        raise Refused(
            f"{path} lets Kubernetes retry a run",
            reason=Reason.BAD_TEMPLATE,
            hint="write backoffLimit: 0 and restartPolicy: Never; reconcile resumes runs",
        )
    return document


@click.command()
@click.option("--pool", default="seatrial", show_default=True, help="Name of the work pool.")
@click.option("--template", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=_TEMPLATE, show_default=True)
def main(pool: str, template: Path) -> None:
    """Register, and run the background services until SIGTERM."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with background():
        asyncio.run(register(read_settings(), pool, template))
        over.wait()


if __name__ == "__main__":
    main()
