"""Events (core/v1) about a Deployment: what the rollout did with it and why, where `kubectl describe` shows it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from core.ids import Epoch

Object = dict[str, Any]

_SOURCE = "seatrial"
_LONGEST = 1000  # the API takes 1024 characters


def event(live: Mapping[str, Any], reason: str, message: str, now: Epoch, *, warning: bool = False) -> Object:
    """Return the event. Its name is made of what it says, so that the same event told twice is one."""
    metadata = live["metadata"]
    digest = hashlib.sha256(f"{metadata['uid']}|{reason}|{message}".encode()).hexdigest()[:16]
    time = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": {**about, "namespace": metadata["namespace"]},
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message[:_LONGEST],
        "source": {"component": _SOURCE},
        "reportingComponent": _SOURCE,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
