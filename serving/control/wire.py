"""What all answers have in common: texts made plain, times in UTC, numbers that JSON cannot say as null."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from core.ids import Epoch
from serving.control.text import plain, plain_json

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


class View(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
