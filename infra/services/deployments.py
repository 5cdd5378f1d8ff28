"""The deployments of our flows: what Prefect's page lists, the same whether the runner or a work pool runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from core.benchmarks import Trigger
from core.settings import BenchmarkPolicy, Settings
from flows.benchmark import benchmark
from flows.deploy_model import deploy_model
from flows.study import study

_FORMER = "reconcile/seatrial"


@dataclass(frozen=True, slots=True)
class Entry:
    """A flow and how it is deployed: `options` are those that Runner.aadd_flow and Flow.ato_deployment share."""

    flow: Flow[..., Any]
    name: str = "seatrial"
    tags: tuple[str, ...] = ("seatrial",)
    options: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return all as keyword arguments."""
        return {"name": self.name, "tags": list(self.tags), **self.options}


def deployments(settings: Settings) -> Iterator[Entry]:
    """Yield every deployment; what is scheduled has its schedule."""
    yield Entry(deploy_model, options={"description": deploy_model.__doc__})
    yield Entry(benchmark, options={"description": benchmark.__doc__})
    yield Entry(
        benchmark,
        name="nightly",
        tags=("seatrial", "nightly"),
        options={
            "description": "Benchmark again what every endpoint serves, and tell of a regression.",
            "cron": settings.benchmarks.cron or None,
            "parameters": {"request": nightly(settings.benchmarks)},
        },
    )
    yield Entry(study, options={"description": study.__doc__})


async def forget_reconcile() -> None:
    """Delete the deployment of releases in which reconcile was a flow, with its scheduled runs. Does nothing where there is none."""
    async with get_client() as client:
        with suppress(ObjectNotFound):
            former = await client.read_deployment_by_name(_FORMER)
            await client.delete_deployment(former.id)


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
