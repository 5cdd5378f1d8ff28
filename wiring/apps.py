"""The gateway and the control API as ASGI applications on the adapters of a process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from core.settings import Settings
from wiring.adapters import Platform
from wiring.benchmark_results import StoredBenchmarkResults
from wiring.suites import ReadSuites

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI

    from serving.control.health_probes import LocalHealthProbes
    from serving.control.platform_problems import ProblemThresholds

_REMEMBERED_S = 24 * 3600.0
_REMEMBERED = 200_000
_PAGE_TIMEOUT_S = 3.0
_PAGE_PATIENCE_S = 1.0
"""How long a page that shows why work waits may wait itself for Prefect."""


def gateway_app(of: Platform) -> Callable[..., Awaitable[None]]:
    """Return the gateway as an ASGI application."""
    from registry.ledger import SpoolLedger  # noqa: PLC0415
    from registry.routes import DatabaseRoutes  # noqa: PLC0415
    from serving.gateway.app import gateway  # noqa: PLC0415
    from serving.gateway.assignments import InProcessAssignments  # noqa: PLC0415

    conversations = of.records.conversations
    return gateway(
        DatabaseRoutes(of.records.gateways, of.address, of.clock),
        SpoolLedger(of.settings.spool, conversations),
        InProcessAssignments(),
        of.clock,
        name=f"{socket.gethostname()}:{urlsplit(of.settings.gateway_url).port}",
        stored_assignments=lambda: conversations.assignments(of.clock.now() - _REMEMBERED_S, _REMEMBERED),
        hold_s=of.hold_s,
        reuse_s=of.reuse_s,
    )


def control_app(of: Platform) -> FastAPI:
    """Return the control API."""
    from registry.flow_runs import PrefectRuns  # noqa: PLC0415
    from serving.control.app import control  # noqa: PLC0415
    from serving.control.context import ControlContext  # noqa: PLC0415

    results, probes, thresholds = StoredBenchmarkResults(of.answers), health_probes(of.settings), problem_thresholds(of.settings)
    queue = PrefectRuns(of.settings.prefect_api_url, timeout_s=_PAGE_TIMEOUT_S, patience_s=_PAGE_PATIENCE_S)
    suites = ReadSuites(of.settings)
    return control(ControlContext(of.records, of.runs, of.engines, of.clock, of.links, results, probes, thresholds, suites, queue))


def health_probes(settings: Settings) -> LocalHealthProbes:
    """Return the probes of the other services and of this machine."""
    from serving.control.health_probes import LocalHealthProbes  # noqa: PLC0415

    health = {
        "prefect": f"{settings.prefect_api_url}/health",
        "mlflow": f"{settings.mlflow_url}/health",
        "gateway": f"{settings.gateway_url}/healthz",
    }
    return LocalHealthProbes(health, settings.prefect_api_url, settings.home, settings.spool)


def problem_thresholds(settings: Settings) -> ProblemThresholds:
    """Return the thresholds of the platform's problems."""
    from serving.control.platform_problems import ProblemThresholds  # noqa: PLC0415

    return ProblemThresholds(settings.rollout.max_error_rate, settings.pickup_s, settings.rollout.step_s, settings.rollout.deadline_s)
