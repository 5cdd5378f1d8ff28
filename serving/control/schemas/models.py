"""Model versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from core.versions import ModelVersion, TrialReport
from serving.control.schemas.base import Text, View, moment
from serving.control.schemas.trials import ReportView


class ModelView(View):
    """A model version: immutable weights with tokenizer, template and licence."""

    id: str
    source: Text
    commit: Text
    licence: Text
    architecture: Text
    dtype: Text
    weights_bytes: int
    max_model_len: int
    created_at: datetime
    registered_uri: Text | None
    link: str | None = Field(description="MLflow's page of it")

    @classmethod
    def of(cls, version: ModelVersion, link: str | None) -> ModelView:
        """Show a version."""
        return cls(**_model(version, link))


class ModelDetail(ModelView):
    """A model version with every trial's report, newest first."""

    reports: list[ReportView]

    @classmethod
    def with_reports(cls, version: ModelVersion, link: str | None, reports: tuple[TrialReport, ...]) -> ModelDetail:
        """Show a version and what its trials said."""
        return cls(**_model(version, link), reports=[ReportView.of(report) for report in reports])


def _model(version: ModelVersion, link: str | None) -> dict[str, Any]:
    return {
        "id": version.id,
        "source": version.source,
        "commit": version.commit,
        "licence": version.licence,
        "architecture": version.needs.architecture,
        "dtype": version.needs.dtype,
        "weights_bytes": version.needs.weights_bytes,
        "max_model_len": version.needs.max_model_len,
        "created_at": moment(version.created_at),
        "registered_uri": version.registered_uri,
        "link": link,
    }
