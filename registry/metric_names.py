"""Names of measurements as MLflow takes them."""

from __future__ import annotations

import re

from core.shown import label

_FORBIDDEN = re.compile(r"[^\w./ -]")


def metric_name(name: str) -> str:
    """Return a name that MLflow takes for a metric: letters, digits, `_`, `.`, `-`, `/` and spaces."""
    return _FORBIDDEN.sub("_", name)[:250]


def readable(name: str) -> str:
    """Return a measurement's name as MLflow takes it and people read it: `pass at 1`, `time to first token`."""
    return metric_name(label(name).replace("@", " at ").replace("%", "percent"))
