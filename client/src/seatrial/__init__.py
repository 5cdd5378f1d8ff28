"""seatrial: bring a language model through its trials to real users' feedback.

>>> from seatrial import Client
>>> with Client() as client:  # finds the platform that `seatrial up` started, or SEATRIAL_URL and SEATRIAL_KEY
...     submission = client.submissions.submit("org/model", "chat")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seatrial.client import Client
    from seatrial.errors import Conflict, InvalidArgument, NotAuthorised, NotFound, RefusedError, SeatrialError, Unavailable

__all__ = [
    "Client",
    "Conflict",
    "InvalidArgument",
    "NotAuthorised",
    "NotFound",
    "RefusedError",
    "SeatrialError",
    "Unavailable",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load on first use: the command line stays quick because `httpx` is not imported for `--help`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "seatrial.client" if name == "Client" else "seatrial.errors"
    return getattr(importlib.import_module(module), name)
