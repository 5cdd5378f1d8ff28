"""The steps that turn a reference into a stored model version: resolve, download, check, tensorize."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect.artifacts import create_table_artifact

from core.engine_memory import plan_memory
from core.ids import SubmissionId
from core.shown import key_of, model_title, size
from core.submissions import StepName, Submission
from core.versions import FileDigest, ModelVersion, ResolvedModel
from evals.checks import Examination, examine, screen
from lifecycle.submissions import set_version
from registry.model_import import ModelImport
from tasks.lease import this_driver
from tasks.step import recorded, step_task
from wiring import platform


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A model on this machine: the pinned listing, the folder, and what was read into it."""

    model: ResolvedModel
    folder: Path
    files: tuple[FileDigest, ...]


def model_import() -> ModelImport:
    """Return the model import on this process's adapters."""
    here = platform()
    settings, installation = here.settings, here.records.installation.id()
    return ModelImport(here.records.versions, here.weights, settings.downloads, settings.scratch, here.engine_programs, installation)


@step_task
def resolve(submission: Submission) -> ResolvedModel:
    """Pin the hub commit."""
    with recorded(submission.id, StepName.RESOLVE) as report:
        ref = submission.request.model
        model = platform().hub(ref).resolve(ref)
        title = model_title(ref.source, model.commit)
        report.say(f"{title}, {len(model.files)} files", commit=model.commit, licence=model.licence)
        return model


@step_task
def known_version(submission: SubmissionId, model: ResolvedModel) -> ModelVersion | None:
    """Return the version that this very commit became earlier, stored whole, and mark its steps as done before."""
    version = model_import().find(model)
    if version is not None:
        set_version(platform().records, platform().clock, submission, version.id, this_driver())
        if not model_import().stored(version):  # garbage collection reads rows after it has withdrawn: one of us saw the other
            return None
        for name in (StepName.DOWNLOAD, StepName.CHECK, StepName.TENSORIZE):
            with recorded(submission, name) as report:
                report.reuse(f"version {version.short} is stored")
    return version


@step_task
def download(submission: SubmissionId, model: ResolvedModel) -> Downloaded:
    """Bring the files that are needed, each checked against the hub's digest."""
    with recorded(submission, StepName.DOWNLOAD) as report:
        here = platform()
        needed = screen(model, here.settings.models)
        with model_import().download_folder(model.ref.source, model.commit) as folder:
            files = here.hub(model.ref).download(
                model,
                needed,
                folder,
                lambda done, total: report.progress(done / max(1, total), f"{size(done)} of {size(total)}"),
            )
        report.say(f"{len(files)} files, {size(sum(file.size for file in files))}")
        return Downloaded(model, folder, files)


@step_task
def check(submission: SubmissionId, downloaded: Downloaded) -> Examination:
    """Look at everything that can be known without running the model."""
    with recorded(submission, StepName.CHECK) as report:
        here = platform()
        examination = examine(downloaded.folder, downloaded.model, here.settings.models, here.engine_host)
        rows = [{"check": f.name, "passed": f.passed, "reason": f.reason, "next": f.hint} for f in examination.findings]
        passed = f"{sum(f.passed for f in examination.findings)} of {len(rows)} checks passed"
        plan = str(plan_memory(examination.needs, here.settings.models, here.engine_host)) if examination.needs else ""
        report.say(f"{passed}; {plan}" if plan else passed, findings=rows, plan=plan)
        title = model_title(downloaded.model.ref.source, downloaded.model.commit)
        key = key_of("model", model_title(downloaded.model.ref.source), "checks")
        create_table_artifact(table=rows, key=key, description=f"Checks of {title}, before anything runs")
        failed = next((finding for finding in examination.findings if not finding.passed), None)
        if failed is not None:
            raise failed.refused()
        return examination


@step_task
def tensorize(submission: SubmissionId, downloaded: Downloaded, examination: Examination) -> ModelVersion:
    """Stream the weights into tensorizer's format, staged; the same weights are never stored twice."""
    with recorded(submission, StepName.TENSORIZE) as report:
        here = platform()
        version, stored = model_import().stage(
            downloaded.model,
            downloaded.folder,
            downloaded.files,
            examination,
            reference_bytes=int(here.settings.trials.reference_gb * 1e9),
            now=here.clock.now(),
            progress=report.progress,
        )
        set_version(here.records, here.clock, submission, version.id, this_driver())
        report.say(f"version {version.short}, {size(version.needs.weights_bytes)} staged", version=version.id)
        if not stored:
            report.reuse(f"version {version.short}: these weights are stored")
        return version
