"""Path parts, query parameters and number types that several routes share, with their bounds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import Field

from core.ids import Epoch

_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

IdPart = Annotated[str, Path(pattern=_ID)]
NamePart = Annotated[str, Path(pattern=_NAME)]
NameQuery = Annotated[str | None, Query(pattern=_NAME)]
IdQuery = Annotated[str | None, Query(pattern=_ID)]
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[datetime | None, Query(description="a time, ISO 8601; without a zone it is UTC")]

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


def epoch(moment: datetime | None) -> Epoch | None:
    """Return a time as an epoch that databases and Prefect take (the years 1970 to 9999)."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
