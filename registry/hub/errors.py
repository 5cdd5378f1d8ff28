"""The one place where huggingface_hub's errors, and those of its HTTP client, become ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx2  # huggingface_hub's own client: what it raises comes through unwrapped
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined] # documented, but in no __all__

from core.errors import Fault, Forbidden, NotFound, Refused, SeatrialError, Transient
from core.ids import Epoch
from core.reasons import Reason

_AGAIN = "The step is retried automatically"
_UNAUTHORISED = 401
_FORBIDDEN = 403
_TOO_MANY = 429
_PASSING = frozenset({408, 425, _TOO_MANY})
_SERVER_ERROR = 500


@contextmanager
def translated(model: str, page: str, now: Epoch) -> Iterator[None]:
    """Turn errors about `model`, whose page is `page`, into Refused, Transient or Fault. `now` is for dates in Retry-After."""
    try:
        yield
    except (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        EntryNotFoundError,
        DisabledRepoError,
        HFValidationError,
    ) as error:
        raise _refusal(model, page, error) from error
    except HfHubHTTPError as error:
        raise _of_status(model, error, now) from error
    except OfflineModeIsEnabled as error:
        raise Fault(f"{model}: huggingface_hub is offline", hint="Unset HF_HUB_OFFLINE for the platform's processes") from error
    except httpx2.TimeoutException as error:
        raise Transient(f"{model}: the hub stopped answering ({type(error).__name__})", hint=_AGAIN) from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise Fault(f"{model}: the hub's address is not a valid URL: {error}", hint="Correct SEATRIAL_HUB_ENDPOINT") from error
    except httpx2.HTTPError as error:
        raise Transient(f"{model}: no connection to the hub ({type(error).__name__}: {error})", hint=_AGAIN) from error


@contextmanager
def readable(model: str) -> Iterator[None]:
    """Turn an answer that is not what the hub's protocol says (a proxy's page, say) into Transient."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise Transient(f"{model}: the hub's answer cannot be read ({type(error).__name__})", hint="see SEATRIAL_HUB_ENDPOINT") from error


def retry_after_s(headers: Mapping[str, str], now: Epoch) -> float | None:
    """Return how long the server asks to wait, by Retry-After (seconds or a date) or by its RateLimit header; None when it does not."""
    stated = headers.get("retry-after", "").strip()
    if stated.isdigit():
        return float(stated)
    if stated:
        try:
            date = parsedate_to_datetime(stated)
        except ValueError:
            return None
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None


def _refusal(model: str, page: str, error: Exception) -> Refused:
    match error:
        case GatedRepoError():
            return Refused(
                f"{model} is gated",
                reason=Reason.GATED,
                hint=f"Accept its terms at {page}, give a token of that account (SEATRIAL_HUB_TOKEN or HF_TOKEN), and submit again",
            )
        case RevisionNotFoundError():
            return NotFound(f"{model}: the hub has no such revision", reason=Reason.NOT_FOUND, hint=f"Choose a branch or tag from {page}")
        case EntryNotFoundError():
            return NotFound(f"{model}: a file was removed from the hub meanwhile", reason=Reason.NOT_FOUND, hint="Submit again")
        case DisabledRepoError():
            return Refused(f"{model} is disabled on the hub", reason=Reason.DISABLED, hint=f"Read the notice at {page}")
        case HFValidationError():
            return Refused(f"{model} is not a model id", reason=Reason.BAD_MODEL_ID, hint="Write ORG/MODEL or ORG/MODEL@REVISION")
        case _:
            return NotFound(
                f"{model} is not on the hub, or is private",
                reason=Reason.NOT_FOUND,
                hint=f"Check that {page} opens; set SEATRIAL_HUB_TOKEN or HF_TOKEN for a private model",
            )


def _of_status(model: str, error: HfHubHTTPError, now: Epoch) -> SeatrialError:
    status = error.response.status_code
    if status in _PASSING or status >= _SERVER_ERROR:
        wait = retry_after_s(error.response.headers, now)
        return Transient(f"{model}: the hub answers {status}", retry_after_s=wait, hint=_AGAIN)
    if status == _UNAUTHORISED:
        return Fault(f"{model}: the hub rejects the platform's token", hint="Renew SEATRIAL_HUB_TOKEN (or HF_TOKEN)")
    if status == _FORBIDDEN:
        return Forbidden(
            f"{model}: the platform's token may not read it", reason=Reason.FORBIDDEN, hint="Give the token the right to read this model"
        )
    return Fault(
        f"{model}: the hub answers {status}", hint="Check SEATRIAL_HUB_ENDPOINT: the server there may not speak the hub's protocol"
    )
