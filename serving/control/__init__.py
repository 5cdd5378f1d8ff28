"""The control API: what the client, the pages and operators talk to."""
