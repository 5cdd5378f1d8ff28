"""What a run writes into its log on Prefect's page: numbers, links and reasons; never a prompt, an answer or a key."""

from __future__ import annotations

import logging

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


def run_log() -> Log:
    """Return the log of the present run; outside a run (a service that repairs rows) the process's own."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("seatrial.runs")
