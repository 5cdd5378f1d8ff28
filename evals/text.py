"""Text from models and files, made fit to be stored and shown."""

from __future__ import annotations


def storable(text: str) -> str:
    """Return `text` with a replacement mark for what a database or a terminal may choke on.

    That is: NUL and other control characters (PostgreSQL takes no NUL; line feed and tab stay), and lone surrogates.
    """
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
