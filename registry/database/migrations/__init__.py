"""Migrations: released ones are never edited."""
