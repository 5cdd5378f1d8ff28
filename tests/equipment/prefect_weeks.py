"""Weeks of flow runs in Prefect's own database, entered through its ORM with their times set, and its own vacuum after each day.

Run as a process of its own (Prefect reads its settings once): prints the rows of each table after each day, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from prefect.server.database import provide_database_interface
from prefect.server.schemas.states import StateType
from prefect.server.services import db_vacuum

RUNS_A_DAY = 6
TASKS = 3
TODAY = dt.datetime.now(dt.UTC)


async def enter(db: Any, day: dt.datetime) -> None:
    """Enter what a day of submissions and benchmarks leaves: runs, task runs, states, logs, artifacts and events."""
    async with db.session_context(begin_transaction=True) as session:
        flow = db.Flow(name=f"flow-{day:%Y%m%d}")
        session.add(flow)
        await session.flush()
        for _ in range(RUNS_A_DAY):
            run = db.FlowRun(flow_id=flow.id, start_time=day, end_time=day, state_type=StateType.COMPLETED, state_name="Completed")
            session.add(run)
            await session.flush()
            session.add(db.FlowRunState(flow_run_id=run.id, type=StateType.COMPLETED, timestamp=day, name="Completed"))
            artifact = db.Artifact(key=f"outcome-{run.id}", type="markdown", data="x", flow_run_id=run.id, created=day)
            event = db.Event(id=uuid4(), occurred=day, event="prefect.flow-run.Completed", resource_id=f"run.{run.id}", resource={},
                             related=[], payload={}, received=day, recorded=day)  # fmt: skip
            session.add_all((artifact, event))
            await session.flush()
            session.add(db.ArtifactCollection(key=artifact.key, latest_id=artifact.id, type="markdown", data="x", flow_run_id=run.id))
            session.add(db.EventResource(occurred=day, resource_id=event.resource_id, resource_role="", resource={}, event_id=event.id))
            for number in range(TASKS):
                task = db.TaskRun(flow_run_id=run.id, task_key="t", dynamic_key=str(number), start_time=day, end_time=day)
                session.add(task)
                await session.flush()
                session.add(db.TaskRunState(task_run_id=task.id, type=StateType.COMPLETED, timestamp=day, name="Completed"))
                session.add(db.Log(flow_run_id=run.id, task_run_id=task.id, name="l", level=20, message="m" * 100, timestamp=day))


async def counts(db: Any) -> dict[str, int]:
    """Return the rows of each table."""
    tables = (
        db.FlowRun,
        db.FlowRunState,
        db.TaskRun,
        db.TaskRunState,
        db.Log,
        db.Artifact,
        db.ArtifactCollection,
        db.Event,
        db.EventResource,
    )
    async with db.session_context() as session:
        return {
            table.__tablename__: (await session.execute(sa.select(sa.func.count()).select_from(table))).scalar_one() for table in tables
        }


async def main(days: int) -> None:
    """Let `days` pass, the last of which is today."""
    db = provide_database_interface()
    await db.create_db()
    for number in range(days):
        day = TODAY - dt.timedelta(days=days - 1 - number)
        vars(db_vacuum)["now"] = lambda _zone, day=day: day  # the service's clock
        await enter(db, day)
        await db_vacuum.vacuum_old_flow_runs(db=db)
        await db_vacuum.vacuum_orphaned_logs(db=db)
        await db_vacuum.vacuum_orphaned_artifacts(db=db)
        await db_vacuum.vacuum_stale_artifact_collections(db=db)
        await db_vacuum.vacuum_old_events(db=db)
        print(json.dumps(await counts(db)), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
