"""A sampling study: which way of choosing among several answers is best, on the stored rows of a finished benchmark."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from core.errors import SeatrialError
from tasks.study import StudyRequest, compare_stored, end_study_failed


@flow(name="sampling-study", flow_run_name="policies on {request.benchmark}", persist_result=False)
def study(request: StudyRequest) -> State[str]:
    """Compare policies offline: nothing is asked of the model again, and nothing ever chooses with hidden tests."""
    try:
        said = compare_stored(request)
    except SeatrialError as error:
        end_study_failed(request, error)
        return Failed(message=str(error))
    return Completed(message=said)
