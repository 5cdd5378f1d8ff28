"""The ports: what the platform needs of the world, one Protocol a file.

A port's docstring is its contract; `tests/contract/` holds one suite per port that every adapter passes, the fake included.
"""

from core.ports.assignments import Assignments
from core.ports.clock import Clock
from core.ports.engine_programs import EnginePrograms, RunningProgram
from core.ports.engines import Activator, Capacity, Engines, EventRecorder
from core.ports.flow_runs import FlowRuns
from core.ports.hub import Hub
from core.ports.ledger import Ledger
from core.ports.models import ModelRegistry
from core.ports.records import Records
from core.ports.routes import Routes
from core.ports.sandbox import Sandbox
from core.ports.weights import WeightsStore

__all__ = [
    "Activator",
    "Assignments",
    "Capacity",
    "Clock",
    "EnginePrograms",
    "Engines",
    "EventRecorder",
    "FlowRuns",
    "Hub",
    "Ledger",
    "ModelRegistry",
    "Records",
    "Routes",
    "RunningProgram",
    "Sandbox",
    "WeightsStore",
]
