"""MLflow as the catalogue that people browse. It follows `Records` and may lag; nothing decides by it.

Aliases are last-write-wins and creations are not idempotent (measured, MLflow 3.17), so a version is looked up by its tag first.
Weights never go through MLflow's server: a registered version's source only names where they lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from core.errors import Fault, NotFound, Transient
from core.ids import EndpointName, VersionId
from core.ports.models import RegisteredModel
from core.shown import model_title, number, rounded, size
from core.versions import ModelVersion, TrialReport
from registry.metric_names import readable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_VERSION_TAG = "seatrial.version"
NOTE_TAG = "mlflow.note.content"
"""MLflow shows the text of this tag as the description of an experiment or a run."""
CHAMPION = "champion"
CHALLENGER = "challenger"
EXISTS = "RESOURCE_ALREADY_EXISTS"
"""MLflow's word for what another process has just made."""
_BAD_REQUEST = "BAD_REQUEST"


class MlflowModels:
    """`ModelRegistry` on an MLflow tracking server. One registered model and one experiment per endpoint."""

    def __init__(self, tracking_uri: str) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415 - seconds of import that only this adapter needs

        self._uri = tracking_uri
        self._client: MlflowClient = MlflowClient(tracking_uri, registry_uri=tracking_uri)

    def register(
        self, endpoint: EndpointName, version: ModelVersion, reports: Sequence[TrialReport], links: Mapping[str, str], artifact_uri: str
    ) -> RegisteredModel:
        """Enter a version with metrics, commit, digests, licence and links; the same version again returns its entry."""
        with translated(self._uri):
            self._ensure_model(endpoint)
            number = self._number(endpoint, version.id)
            if number is None:
                run_id = self._log_run(endpoint, version, reports, links)
                created = self._client.create_model_version(
                    endpoint, artifact_uri, run_id, _tags(version, links), description=_description(version, links), await_creation_for=0
                )
                number = int(created.version)
            return RegisteredModel(f"models:/{endpoint}/{number}", number, f"{self._uri}/#/models/{endpoint}/versions/{number}")

    def mark(self, endpoint: EndpointName, *, champion: VersionId | None, challenger: VersionId | None) -> None:
        """Set or remove both aliases."""
        with translated(self._uri):
            aliases = self._client.get_registered_model(endpoint).aliases
            for alias, version in ((CHAMPION, champion), (CHALLENGER, challenger)):
                self._set_alias(endpoint, alias, version, aliases.get(alias))

    def _set_alias(self, endpoint: str, alias: str, version: VersionId | None, present: str | None) -> None:
        if version is None:
            if present is not None:
                self._client.delete_registered_model_alias(endpoint, alias)
            return
        number = self._number(endpoint, version)
        if number is None:
            raise NotFound(f"MLflow has no version {version[:12]} of {endpoint}", hint="register it first")
        if str(number) != str(present):
            self._write_alias(endpoint, alias, str(number))

    def _write_alias(self, endpoint: str, alias: str, number: str) -> None:
        """Write an alias. MLflow fails one of two first writes at the same moment (a unique key); the second write replaces the first."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            self._client.set_registered_model_alias(endpoint, alias, number)
        except MlflowException as error:
            if error.error_code != _BAD_REQUEST:
                raise
            self._client.set_registered_model_alias(endpoint, alias, number)

    def _ensure_model(self, endpoint: str) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            about = f"Versions that the endpoint `{endpoint}` serves (alias `champion`), tries (`challenger`) or served before."
            tags = {"seatrial.endpoint": endpoint, "seatrial.call": f'seatrial chat {endpoint} "hello"'}
            self._client.create_registered_model(endpoint, tags, description=about)
        except MlflowException as error:
            if error.error_code != EXISTS:
                raise

    def _number(self, endpoint: str, version: VersionId) -> int | None:
        found = self._client.search_model_versions(f"name = '{endpoint}' and tags.`{_VERSION_TAG}` = '{version}'")
        return min((int(item.version) for item in found), default=None)

    def _log_run(self, endpoint: str, version: ModelVersion, reports: Sequence[TrialReport], links: Mapping[str, str]) -> str:
        about = f"Model versions of the endpoint `{endpoint}`: one run per version, with the numbers of its trials."
        tags = {"seatrial.kind": "models", "seatrial.endpoint": endpoint, NOTE_TAG: about}
        experiment_id = experiment_named(self._client, f"{endpoint}/models", tags, former=endpoint)
        earlier = self._client.search_runs([experiment_id], f"tags.`{_VERSION_TAG}` = '{version.id}'", max_results=1)
        # an attempt that was cut off before its entry was made is written over, not doubled
        begin, end = _times(version, reports)
        run = earlier[0] if earlier else self._new_run(experiment_id, endpoint, version, links, begin)
        self._client.log_batch(run.info.run_id, metrics=_metrics(reports), params=_params(version))
        self._client.log_dict(run.info.run_id, {"files": [[f.path, f.size, f.sha256] for f in version.files]}, "digests.json")
        self._client.set_terminated(run.info.run_id, "FINISHED", end)
        return str(run.info.run_id)

    def _new_run(self, experiment_id: str, endpoint: str, version: ModelVersion, links: Mapping[str, str], begin: int) -> Run:
        name = f"{model_title(version.source)} -> {endpoint}, {datetime.fromtimestamp(begin / 1000, UTC):%Y-%m-%d %H:%M}"
        tags = {**_tags(version, links), NOTE_TAG: _description(version, links)}
        return self._client.create_run(experiment_id, start_time=begin, run_name=name, tags=tags)


def experiment_named(client: MlflowClient, name: str, tags: dict[str, str] | None = None, *, former: str = "") -> str:
    """Return the id of an experiment, which is made when it is not there; another process may make it at the same moment.

    One that is found under its `former` name is renamed.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    earlier = client.get_experiment_by_name(former) if former else None
    if earlier is not None and earlier.lifecycle_stage == "active":
        client.rename_experiment(earlier.experiment_id, name)
        return str(earlier.experiment_id)
    try:
        return str(client.create_experiment(name, tags=tags))
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise
        return experiment_named(client, name, tags, former=former)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn MLflow's errors within the block into ours."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(f"MLflow at {uri}: {str(error)[:200]}", hint="register the version first") from error
        if error.get_http_status_code() >= 500 or "Max retries exceeded" in str(error):  # noqa: PLR2004 - HTTP's own line
            raise Transient(f"MLflow at {uri} did not answer: {str(error)[:200]}", hint="see that it runs") from error
        raise Fault(f"MLflow at {uri} refused: {str(error)[:300]}") from error


def _tags(version: ModelVersion, links: Mapping[str, str]) -> dict[str, str]:
    return {
        _VERSION_TAG: version.id,
        "seatrial.model": model_title(version.source, version.commit),
        "seatrial.source": version.source,
        "seatrial.commit": version.commit,
        "seatrial.tensors": version.tensors,
        "seatrial.licence": version.licence,
        **{f"seatrial.link.{name}": link for name, link in links.items()},
    }


def _params(version: ModelVersion) -> list[Any]:
    from mlflow.entities import Param  # noqa: PLC0415

    needs = version.needs
    values = {
        "source": version.source,
        "commit": version.commit,
        "version": version.id,
        "licence": version.licence,
        "architecture": needs.architecture,
        "dtype": needs.dtype,
        "weights_bytes": needs.weights_bytes,
        "max_model_len": needs.max_model_len,
    }
    return [Param(key, str(value)) for key, value in values.items()]


def _metrics(reports: Sequence[TrialReport]) -> list[Any]:
    """Return the trials' numbers as `benchmark/pass at 1`: MLflow groups its charts by what is before the slash."""
    from mlflow.entities import Metric  # noqa: PLC0415

    return [
        Metric(f"{report.kind}/{readable(name)}", rounded(value), int(report.at * 1000), 0)
        for report in reports
        for name, value in sorted(report.numbers.items())
        if math.isfinite(value)
    ]


def _times(version: ModelVersion, reports: Sequence[TrialReport]) -> tuple[int, int]:
    """Return the start and the end of the trials in milliseconds.

    The end is when the newest trial of each kind had ended; the start is the end minus the summed durations of these trials.
    """
    newest = {report.kind: report for report in sorted(reports, key=lambda report: report.at)}.values()
    end = max((report.at for report in newest), default=version.created_at)
    return int((end - sum(report.seconds for report in newest)) * 1000), int(end * 1000)


def _description(version: ModelVersion, links: Mapping[str, str]) -> str:
    needs = version.needs
    about = (
        f"`{model_title(version.source)}` at commit `{version.commit}`, licence {version.licence}.\n\n"
        f"{needs.architecture}, {size(needs.weights_bytes)} {needs.dtype}, context {number(needs.max_model_len)} tokens.\n\n"
    )
    rows = "".join(f"- [{name}]({link})\n" if link.startswith("http") else f"- {name}: `{link}`\n" for name, link in links.items())
    return about + rows
