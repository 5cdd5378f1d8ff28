"""The checks, and what they come to. A new check is a function in a file beside this one and a line in `CHECKS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from core.hosts import EngineHost
from core.settings import ModelPolicy
from core.versions import EngineNeeds, Finding, ResolvedModel
from evals.checks.architecture import served_architecture
from evals.checks.config_types import config_types
from evals.checks.contents import no_remote_code, only_known_files, readable_json, whole_files
from evals.checks.finite import finite_weights
from evals.checks.hardware import heads_served, quantization_on_cpu
from evals.checks.licence import licence, licence_allowed
from evals.checks.memory import engine_needs, fits_engine
from evals.checks.model_files import ModelFiles
from evals.checks.quantization import served_quantization
from evals.checks.report import Examination, NotCheckable
from evals.checks.sampling import default_sampling
from evals.checks.shapes import shapes_match_config
from evals.checks.template import chat_template_renders, template_digest
from evals.checks.tokenizer import ids_within_embedding, tokenizer_round_trip
from evals.checks.weights import index_equals_tensors, sound_headers


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `look` yields a failed finding for each fault; nothing found is reported as a pass under `name`."""

    name: str
    look: Callable[[ModelFiles], Iterable[Finding]]


CHECKS: tuple[Check, ...] = (
    Check("only_known_files", only_known_files),
    Check("whole_files", whole_files),
    Check("readable_json", readable_json),
    Check("no_remote_code", no_remote_code),
    Check("served_architecture", served_architecture),
    Check("config_types", config_types),
    Check("served_quantization", served_quantization),
    Check("quantization_on_cpu", quantization_on_cpu),
    Check("heads_served", heads_served),
    Check("sound_headers", sound_headers),
    Check("index_equals_tensors", index_equals_tensors),
    Check("shapes_match_config", shapes_match_config),
    Check("tokenizer_round_trip", tokenizer_round_trip),
    Check("ids_within_embedding", ids_within_embedding),
    Check("chat_template_renders", chat_template_renders),
    Check("default_sampling", default_sampling),
    Check("licence_allowed", licence_allowed),
    Check("fits_engine", fits_engine),
    Check("finite_weights", finite_weights),  # last: it reads every byte
)
"""In the order in which a submitter should read them: the first failure becomes the submission's reason."""


_ANY_HOST = EngineHost()


def examine(folder: Path, model: ResolvedModel, policy: ModelPolicy, host: EngineHost = _ANY_HOST) -> Examination:
    """Run every check on the downloaded `folder`, for engines on `host`, and collect what they find.

    Reads only; never runs the model's own code.

    A check that cannot work on what another one refuses (no config.json, a broken header), or does not know the model's family, is left
    out of the findings.
    """
    files = ModelFiles(folder, model, policy, host)
    findings = tuple(finding for check in CHECKS for finding in _run(check, files))
    return Examination(findings, _needs(files), template_digest(files), licence(files))


def _run(check: Check, files: ModelFiles) -> tuple[Finding, ...]:
    try:
        return tuple(check.look(files)) or (Finding(check.name, passed=True),)
    except NotCheckable:
        return ()


def _needs(files: ModelFiles) -> EngineNeeds | None:
    try:
        return engine_needs(files)
    except NotCheckable:
        return None
