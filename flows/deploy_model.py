"""The main flow: one model from its hub id to an endpoint, through the trials that it must pass."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from core.errors import SeatrialError
from core.submissions import Submission
from core.versions import ModelVersion
from tasks.enter import DeployRequest, enter, held
from tasks.finish import finish, resume_end
from tasks.prepare import check, download, known_version, resolve, tensorize
from tasks.release import already_serving, announce, ensure_served, publish, register, roll_out
from tasks.start import start
from tasks.trials import benchmark, degeneration, fidelity, latency, smoke


@flow(name="deploy-model", flow_run_name="{request.title}", persist_result=False)
def deploy_model(request: DeployRequest) -> State[str]:
    """Resolve, download, check, tensorize, start dark, trials, publish, register, roll out, announce.

    Every step is idempotent by content: a run that is killed at any point and started again ends in the same state.
    """
    submission = enter(request)
    with held(submission):
        try:
            resume_end(submission.id)
            version = prepare(submission)
            release(submission, version)
            announce(submission, version)
        except SeatrialError as error:
            ended = finish(submission.id, error)
            return Failed(name=str(ended).replace("_", " ").title(), message=str(error))
    return Completed(message=f"{request.endpoint} serves {version.short}")


def prepare(submission: Submission) -> ModelVersion:
    """Bring the model in: what is stored already is not fetched, checked or tensorized again."""
    model = resolve(submission)
    version = known_version(submission.id, model)
    if version is None:
        downloaded = download(submission.id, model)
        examination = check(submission.id, downloaded)
        version = tensorize(submission.id, downloaded, examination)
    return version


def release(submission: Submission, version: ModelVersion) -> None:
    """Try the candidate dark, then give it users step by step."""
    if already_serving(submission, version):
        ensure_served(submission, version)
        return
    rollout = start(submission, version)
    smoke(submission.id, rollout)
    fidelity(submission.id, rollout, version)
    latency(submission.id, rollout)
    benchmarked = benchmark(submission.id, rollout)
    degeneration(submission.id, rollout, benchmarked)
    publish(submission, version)
    register(submission, version)
    roll_out(submission, rollout)
