"""Where the platform is and which key opens it: options, then the environment, then what `seatrial up` left on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seatrial.errors import NotAuthorised, Unavailable
from seatrial.paths import absolute

_NEXT = (
    "start it with `seatrial up`; name the folder of one that was started with --home: `seatrial --home FOLDER ...` or "
    "`export SEATRIAL_HOME=FOLDER`; for one on another machine set SEATRIAL_URL and SEATRIAL_KEY"
)


@dataclass(frozen=True, slots=True)
class Connection:
    """The control API, the gateway where it is known, and the bearer key. `repr` leaves the key out."""

    url: str
    key: str
    gateway_url: str | None = None

    def __repr__(self) -> str:
        """Return it without the key."""
        return f"Connection(url={self.url!r}, gateway_url={self.gateway_url!r})"


def find_connection(
    url: str | None = None, key: str | None = None, environ: Mapping[str, str] | None = None, *, home: str | Path | None = None
) -> Connection:
    """Return the connection to use. Raises Unavailable when no platform can be found, NotAuthorised when no key can.

    Raises InvalidArgument for a home that has no absolute path.

    An explicit `home` replaces what the environment says about another platform: its URL, and the key that belongs to that URL.
    """
    env = dict(os.environ if environ is None else environ)
    if home is not None or (url and url != env.get("SEATRIAL_URL", url)):
        env.pop("SEATRIAL_GATEWAY_URL", None)  # of the platform that SEATRIAL_URL names; a key must not go to another one
    if home is not None:
        env["SEATRIAL_HOME"] = str(home)
        if env.pop("SEATRIAL_URL", None):
            env.pop("SEATRIAL_KEY", None)
    url, key = url or env.get("SEATRIAL_URL"), key or env.get("SEATRIAL_KEY")
    folder = state_folder(env)
    left = {} if url and key else _left_by_up(folder)
    found = url or str(left.get("control_url") or "")
    if not found:
        raise Unavailable(f"no platform runs in {folder}", hint=_NEXT, reason="no_platform")
    # A key is only ever sent to the platform that it belongs to: the one left by `up` never goes to another URL.
    ours = found.rstrip("/") == str(left.get("control_url") or "").rstrip("/")
    if not key and ours:
        key = _read_key(Path(str(left.get("key_file") or "")))
    if not key:
        raise NotAuthorised(f"no key for the platform at {found}", hint="give --key or set SEATRIAL_KEY", reason="no_key")
    if not (key.isascii() and key.isprintable()) or " " in key:  # the message leaves the key out, as every message does
        hint = "give the key as `seatrial keys create` printed it"
        raise NotAuthorised("a key must be printable ASCII characters without spaces", hint=hint, reason="bad_key")
    gateway = env.get("SEATRIAL_GATEWAY_URL") or (str(left["gateway_url"]) if ours and left.get("gateway_url") else None)
    return Connection(found.rstrip("/"), key, gateway)


def is_local(connection: Connection, folder: Path) -> bool:
    """Return whether a connection is to the platform that `seatrial up` started on `folder`."""
    return connection.url == str(_left_by_up(folder).get("control_url") or "").rstrip("/")


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the platform's state directory on this machine: SEATRIAL_HOME, else the one below the user's data directory (XDG).

    Raises InvalidArgument for a SEATRIAL_HOME that has no absolute path.
    """
    given = environ.get("SEATRIAL_HOME")
    if given:
        return absolute(given)
    data = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or os.path.expanduser("~")) / ".local/share"  # noqa: PTH111 - never raises
    return Path(data) / "seatrial"


def _left_by_up(folder: Path) -> Mapping[str, object]:
    path = folder / "run" / "client.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path} cannot be read: {error}", hint=_NEXT, reason="bad_client_json") from error
    return document if isinstance(document, dict) else {}


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        hint = "only who ran `seatrial up` may read it; ask them for a key (seatrial keys create)"
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise NotAuthorised(f"the key file {path} cannot be read: {why}", hint=hint, reason="key_file") from error
