"""What is remembered, in SQLite or PostgreSQL: `migrate(url)`, then `open_database(url)`."""

from registry.database.database import Database, open_database
from registry.database.migration import migrate

__all__ = ["Database", "migrate", "open_database"]
