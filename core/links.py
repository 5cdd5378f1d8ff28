"""Addresses of the web pages and the gateway, as the browser or the client of a person reaches them."""

from __future__ import annotations

from dataclasses import dataclass

from core.versions import ModelVersion


@dataclass(frozen=True, slots=True)
class Links:
    """The base URLs of Prefect's page, MLflow's page and the gateway."""

    prefect_ui: str
    mlflow_ui: str
    gateway_url: str

    def run(self, flow_run: str | None) -> str | None:
        """Return Prefect's page of a flow run."""
        return f"{self.prefect_ui.rstrip('/')}/runs/flow-run/{flow_run}" if flow_run else None

    def model(self, version: ModelVersion) -> str | None:
        """Return MLflow's page of a registered version (`models:/name/3`)."""
        if not version.registered_uri:
            return None
        name, _, number = version.registered_uri.removeprefix("models:/").rpartition("/")
        return f"{self.mlflow_ui.rstrip('/')}/#/models/{name}/versions/{number}"
