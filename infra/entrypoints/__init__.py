"""Entry points of our long-running processes: read settings, wire, run."""
