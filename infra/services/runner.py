"""`python -m infra.services.runner`: serves the flows' deployments and runs their runs, each in a process of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined] # where the documentation imports it from
from prefect.runner import Runner

from core.benchmarks import Trigger
from core.settings import BenchmarkPolicy, read_settings
from flows.benchmark import benchmark
from flows.deploy_model import deploy_model
from flows.reconcile import reconcile
from flows.study import study
from tasks.pulse import beat
from wiring import Platform

_POLL_S = 1.0
_RUNS_AT_ONCE = 10


async def main() -> None:
    """Register the deployments and run what is due until SIGTERM, which ends the runs too."""
    settings = read_settings()
    runner = Runner(name="seatrial", query_seconds=_POLL_S, limit=_RUNS_AT_ONCE)
    await runner.aadd_flow(
        deploy_model,
        name="seatrial",
        description=deploy_model.__doc__,
        tags=["seatrial"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    await runner.aadd_flow(
        reconcile, name="seatrial", interval=settings.reconcile_s, tags=["seatrial"], entrypoint_type=EntrypointType.MODULE_PATH
    )
    await add_benchmarks(runner, settings.benchmarks)
    over = threading.Event()
    pulse = threading.Thread(target=beat, args=(Platform(settings), over), name="pulse", daemon=True)
    pulse.start()
    try:
        await runner.start()
    finally:
        over.set()


async def add_benchmarks(runner: Runner, policy: BenchmarkPolicy) -> None:
    """Register the benchmark by hand, the one on a schedule, and the sampling study."""
    kind = EntrypointType.MODULE_PATH
    await runner.aadd_flow(benchmark, name="seatrial", description=benchmark.__doc__, tags=["seatrial"], entrypoint_type=kind)
    await runner.aadd_flow(
        benchmark,
        name="nightly",
        description="Benchmark again what every endpoint serves, and tell of a regression.",
        tags=["seatrial", "nightly"],
        cron=policy.cron or None,
        parameters={"request": nightly(policy)},
        entrypoint_type=kind,
    )
    await runner.aadd_flow(study, name="seatrial", description=study.__doc__, tags=["seatrial"], entrypoint_type=kind)


def nightly(policy: BenchmarkPolicy) -> dict[str, Any]:
    """Return the parameters of the scheduled benchmark, as Prefect's page shows them."""
    return {
        "target": "",
        "suite": policy.suite,
        "samples": policy.samples,
        "temperature": policy.temperature,
        "frequency_penalty": policy.frequency_penalty,
        "form": policy.form,
        "trigger": Trigger.SCHEDULE.value,
    }


if __name__ == "__main__":
    asyncio.run(main())
