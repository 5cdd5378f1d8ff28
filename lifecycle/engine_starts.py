"""Starting engines: from the immutable spec of a version until the engine answers, or has a cause why it cannot."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from core.engine_memory import plan_memory
from core.engines import EngineCause, EnginePhase, EngineSpec, EngineState, Responsible
from core.errors import Conflict, Refused, Transient
from core.hosts import EngineHost
from core.ids import Digest, VersionId
from core.ports import Activator, Clock, Engines, WeightsStore
from core.reasons import Reason
from core.settings import ModelPolicy
from core.versions import ModelVersion

_LOOK_S = 0.2
_ACTIVATE_EVERY = 50
"""Looks between two activations: an autoscaler that was just deciding may undo the first."""
_GONE_S = 60.0
_HINTS = {
    Responsible.SUBMITTER: "correct the model and submit it again; the engine's log is in `seatrial logs`",
    Responsible.OPERATOR: "ask the platform's operator: the cause is not the model, see `seatrial doctor`; then submit again",
    Responsible.EITHER: "read the engine's log with `seatrial logs`; correct the model or submit a smaller one, or ask the operator to "
    "give engines more memory or time (SEATRIAL_MODELS_ENGINE_MEMORY_BYTES, SEATRIAL_MODELS_ENGINE_START_LIMIT_S); then submit again",
}
_HINTS_OF_CAUSES = {
    EngineCause.ILLEGAL_INSTRUCTION: "ask the platform's operator to run `seatrial doctor` on the engine's machine: it lists the CPU's "
    "features and the kernels that engines use; then submit again",
    EngineCause.BUS_ERROR: "ask the platform's operator to make room in /dev/shm on the engine's machine; then submit again",
}


def spec_of(version: ModelVersion, weights: WeightsStore, policy: ModelPolicy, host: EngineHost) -> EngineSpec:
    """Return the immutable spec of a version's engine on `host`. Errors of the store: NotFound, Transient, Fault."""
    plan = plan_memory(version.needs, policy, host)
    return EngineSpec(
        version=version.id,
        model_uri=weights.reclaim(Digest(version.id)).uri,
        tensors_uri=weights.reclaim(version.tensors).uri,
        tensors_manifest=version.tensors_manifest,
        max_model_len=plan.max_model_len,
        dtype=plan.dtype,
        memory_bytes=policy.engine_memory_bytes,
        weights_bytes=version.needs.weights_bytes,
        attention_heads=version.needs.attention_heads,
        cache_bytes=plan.cache_bytes,
        concurrency=plan.concurrency,
    )


@dataclass(frozen=True, slots=True)
class EngineStarts:
    """Starts engines. Errors of its verbs, besides those that are named: Transient, Fault."""

    engines: Engines
    activator: Activator
    clock: Clock
    limit_s: float
    """How long an engine may take from its request to its first answer, in seconds."""

    def request(self, spec: EngineSpec) -> None:
        """Apply a spec. An engine that runs from an earlier spec (other settings, another release) keeps the one of its trials."""
        try:
            self.engines.apply(spec)
        except Conflict as error:
            if error.reason is Reason.ENGINE_OF_ANOTHER or self.engines.state(spec.version).phase is not EnginePhase.READY:
                raise

    def request_again(self, spec: EngineSpec) -> None:
        """Apply the spec of a version that serves. An engine that failed under an earlier spec serves no requests, so it is replaced."""
        try:
            self.engines.apply(spec)
        except Conflict as error:
            if error.reason is Reason.ENGINE_OF_ANOTHER:
                raise
            if self.engines.state(spec.version).phase is not EnginePhase.FAILED:
                return  # it is starting, from the spec that it was tried with
            self._remove(spec.version)
            self.engines.apply(spec)

    def await_ready(self, version: VersionId, look: Callable[[str], object]) -> str:
        """Wait for a requested engine, activating it if it is scaled to zero, and return its address.

        `look` is called with each state's detail. Refused with the cause if the engine cannot start. Transient if it was stopped
        meanwhile: the step is tried again.
        """
        limit = self.clock.monotonic() + self.limit_s
        for number in itertools.count():
            state = self.engines.state(version)
            if state.phase is EnginePhase.READY and state.address:
                return state.address
            self._expect_starting(state)
            if self.clock.monotonic() > limit:
                raise Refused(
                    f"the engine of {version[:12]} was not ready after {self.limit_s:.0f} s: {state.detail}",
                    reason=Reason.ENGINE_START_TIMEOUT,
                    hint=hint_for(state),
                )
            if number % _ACTIVATE_EVERY == 0:
                self.activator.activate(version)
            look(state.detail)
            self.clock.wait(_LOOK_S)
        raise AssertionError("unreachable")

    def _expect_starting(self, state: EngineState) -> None:
        name = state.version[:12]
        if state.phase is EnginePhase.FAILED:
            raise Refused(f"the engine of {name} does not start: {state.detail}", reason=Reason.ENGINE_FAILED, hint=hint_for(state))
        if state.phase in {EnginePhase.ABSENT, EnginePhase.STOPPING}:
            raise Transient(f"the engine of {name} was stopped while it was waited for")

    def _remove(self, version: VersionId) -> None:
        """Stop a failed engine, and wait until it is gone."""
        self.engines.stop(version, drain_s=0.0)
        limit = self.clock.monotonic() + _GONE_S
        while self.engines.state(version).phase is not EnginePhase.ABSENT:
            if self.clock.monotonic() > limit:
                raise Transient(f"the failed engine of {version[:12]} was not removed within {_GONE_S:.0f} s")
            self.clock.wait(_LOOK_S)


def hint_for(state: EngineState) -> str:
    """Return what to do about an engine that does not come up, by its cause."""
    cause = state.cause or EngineCause.UNKNOWN
    return _HINTS_OF_CAUSES.get(cause) or _HINTS[cause.responsible]
