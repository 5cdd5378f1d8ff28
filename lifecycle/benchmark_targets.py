"""The version that the target of a benchmark names: an endpoint, a model or a version."""

from __future__ import annotations

from core.errors import NotFound, Refused
from core.ids import EndpointName, VersionId
from core.ports import Records
from core.reasons import Reason

Target = tuple[EndpointName | None, VersionId]


def target_of(records: Records, text: str) -> Target:
    """Return the endpoint's stable version, the newest version of ORG/MODEL[@COMMIT] or a folder, or the version with this id prefix.

    An endpoint's name takes precedence over a version's id. Raises NotFound, or Refused for an endpoint that serves nothing.
    """
    served = {endpoint.name: endpoint.stable for endpoint in records.endpoints.list()}
    name = EndpointName(text)
    if name in served:
        stable = served[name]
        if stable is None:
            raise Refused(f"endpoint {name} serves nothing yet", reason=Reason.NOTHING_SERVED, hint="submit a model to it first")
        return name, stable
    if "/" in text:
        return None, _by_source(records, text)
    try:
        return None, records.versions.get(VersionId(text)).id
    except NotFound as error:
        raise NotFound(
            f"{text[:100]} is neither an endpoint nor a model version",
            reason=error.reason,
            hint="`seatrial endpoints` and `seatrial models` list them; 8 characters of a version are enough",
        ) from error


def _by_source(records: Records, text: str) -> VersionId:
    source, _, commit = (text, "", "") if text.startswith("/") else text.partition("@")
    found = [version for version in records.versions.find(source=source) if version.commit.startswith(commit)]
    if not found:
        raise NotFound(
            f"there is no version of {text[:200]}",
            reason=Reason.NO_VERSION,
            hint=f"bring it first: seatrial submit {text[:200]} --endpoint NAME",
        )
    return found[0].id
