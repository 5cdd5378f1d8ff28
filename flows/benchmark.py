"""A benchmark: by hand, or each night on what every endpoint serves."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from core.benchmarks import Benchmark, BenchmarkState
from core.errors import SeatrialError
from tasks.alerts import raise_alert
from tasks.benchmarks import (
    BenchmarkRequest,
    ask,
    bring_up,
    conclude,
    end_failed,
    enter_benchmarks,
    held_benchmarks,
    judge,
    pin_plan,
    record_and_show,
)


@flow(name="benchmark", flow_run_name="{request.title}", persist_result=False)
def benchmark(request: BenchmarkRequest) -> State[str]:
    """Ask every problem of a suite, judge the answers in the sandbox, hold them against the baseline, tell of a regression.

    Rows of answers are kept as they come: a run that is killed goes on where it stopped. One target's failure keeps no other from
    running.
    """
    rows = enter_benchmarks(request)
    with held_benchmarks(rows):
        ends = [run(row) for row in rows]
    failed = ends.count(BenchmarkState.FAILED)
    said = f"{len(ends) - failed} of {len(ends)} benchmarks ran"
    return Failed(message=said) if failed else Completed(message=said)


def run(row: Benchmark) -> BenchmarkState:
    """Bring one benchmark to its end."""
    if row.ended:
        return row.state
    try:
        pin_plan(row.id)
        ask(row.id, bring_up(row.id))
        judge(row.id)
        record_and_show(row.id)
        raise_alert(row.id)
        return conclude(row.id)
    except SeatrialError as error:
        return end_failed(row.id, error)
