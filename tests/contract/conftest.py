"""Fixtures that several contract suites share."""

from tests.equipment.databases import database_url, migrated_postgres, migrated_sqlite, postgres, records
from tests.equipment.disks import small_disk
from tests.equipment.mlflow_server import mlflow_url

__all__ = ["database_url", "migrated_postgres", "migrated_sqlite", "mlflow_url", "postgres", "records", "small_disk"]
