"""The base classes and field types of all bodies: texts without control characters, times in UTC, NaN and infinity as null."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from core.ids import Epoch
from serving.control.plain_text import plain, plain_json

Text = Annotated[str, AfterValidator(plain)]
Number = Annotated[float | None, BeforeValidator(plain_json)]
Numbers = Annotated[dict[str, float | None], BeforeValidator(plain_json)]
Detail = Annotated[dict[str, Any], BeforeValidator(plain_json)]


def moment(epoch: Epoch) -> datetime:
    """Return an epoch as a UTC time."""
    return datetime.fromtimestamp(epoch, UTC)


def maybe(epoch: Epoch | None) -> datetime | None:
    """Return an epoch as a UTC time, None as None."""
    return None if epoch is None else moment(epoch)


class RequestBody(BaseModel):
    """Base of all request bodies. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class View(BaseModel):
    """Base of all response bodies."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
