"""The deployments of our flows: what Prefect's page lists, the same whether the runner or a work pool runs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from core.benchmarks import Trigger
from core.settings import BenchmarkPolicy, Settings
from flows.benchmark import benchmark
from flows.deploy_model import deploy_model
from flows.study import study

log = structlog.get_logger(__name__)

FORMER = ("deploy-model/seatrial", "benchmark/seatrial", "study/seatrial", "reconcile/seatrial")
"""Names of deployments in release 0.1, where all were called `seatrial`."""

SUBMIT = """
Brings **one model to one endpoint**: resolve, download, check, tensorize, start the engine without traffic, trials (smoke, latency,
benchmark, degeneration), publish, register in MLflow, roll out step by step, announce.

| field | what to enter |
|---|---|
| `model` | `ORG/MODEL`, `ORG/MODEL@REVISION`, or an absolute folder on the platform's machine |
| `endpoint` | the public name that applications call: a-z, 0-9 and - |
| `submission` | leave empty |

A run that fails was **refused** or **rolled back**, or the platform failed: the state's name and the artifact `model-ORG-MODEL` give the
reason and the next step. On the command line: `seatrial submit ORG/MODEL --endpoint NAME --watch`.
"""

ON_DEMAND = """
Benchmarks **one endpoint or one version now**: asks every problem of a suite, judges the answers in the sandbox and compares the score
with the baseline.

| field | what to enter |
|---|---|
| `target` | an endpoint or a version (8 characters are enough); empty: every endpoint |
| `suite` | a name in `evals/suites`, `humaneval`, `lmeval:TASK`, or the path of a `.jsonl` file |
| `samples` | answers to each problem at every temperature |
| `benchmark` | leave empty |

Results: the artifact `endpoint-NAME-benchmark`, and MLflow's experiment `NAME/benchmarks`.
On the command line: `seatrial bench NAME --suite harbour -n 4 --watch`.
"""

NIGHTLY = """
Benchmarks **what every endpoint serves**, on a schedule. A regression against the endpoint's baseline raises one alert (audit, event,
webhook), and a rollback where the endpoint's policy asks for it. Schedule and parameters come from `SEATRIAL_BENCHMARKS_*`.
"""

STUDY = """
Compares **ways of choosing one of several answers** on the stored answers of a finished benchmark. The model is not asked again.

On the command line: `seatrial bench study BENCHMARK --best-of 1,4,8`.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A flow and how it is deployed: `options` are those that Runner.aadd_flow and Flow.ato_deployment share."""

    flow: Flow[..., Any]
    name: str
    tags: tuple[str, ...] = ("seatrial",)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """The name by which Prefect's API finds it: `deploy-model/submit`."""
        return f"{self.flow.name}/{self.name}"

    def arguments(self) -> dict[str, Any]:
        """Return all as keyword arguments."""
        return {"name": self.name, "tags": list(self.tags), **self.options}


def deployments(settings: Settings) -> Iterator[Entry]:
    """Yield every deployment; what is scheduled has its schedule."""
    yield Entry(deploy_model, "submit", options={"description": SUBMIT})
    yield Entry(benchmark, "on-demand", options={"description": ON_DEMAND})
    yield Entry(
        benchmark,
        name="nightly",
        tags=("seatrial", "nightly"),
        options={
            "description": NIGHTLY,
            "cron": settings.benchmarks.cron or None,
            "parameters": {"request": nightly(settings.benchmarks)},
        },
    )
    yield Entry(study, "on-demand", options={"description": STUDY})


async def remove_former(entries: Iterable[Entry]) -> None:
    """Remove the deployments of earlier releases that are not among `entries`: nothing starts them any more. Their runs stay."""
    present = {entry.full_name for entry in entries}
    async with get_client() as client:
        for name in FORMER:
            if name in present:
                continue
            try:
                found = await client.read_deployment_by_name(name)
                await client.delete_deployment(found.id)
            except ObjectNotFound:
                continue
            log.info("deployment.removed", deployment=name)


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
