"""One shape for every error that leaves the control API: `{"error": {"code", "reason", "message", "hint"}}`."""

from __future__ import annotations

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from core.errors import Conflict, Fault, Forbidden, NotFound, Refused, SeatrialError, Transient
from core.reasons import Reason
from serving.control.plain_text import plain

_LOG = logging.getLogger("seatrial.control")
_RETRY_AFTER_S = 5.0


class Unauthenticated(Refused):
    """No key, or one that opens nothing (any more)."""

    code = Reason.UNAUTHENTICATED


class ErrorDetail(BaseModel):
    """`code` says what kind it is, `reason` is a stable word for programs, `message` and `hint` are for people."""

    code: str
    reason: str
    message: str
    hint: str


class ErrorBody(BaseModel):
    """Every error looks like this."""

    error: ErrorDetail


RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorBody, "description": "No key, or one that was revoked or has expired"},
    403: {"model": ErrorBody, "description": "The key's role does not allow this"},
    404: {"model": ErrorBody, "description": "What was named does not exist, or is not yours to see"},
    409: {"model": ErrorBody, "description": "Not possible in the state that it is in"},
    422: {"model": ErrorBody, "description": "The request is at fault"},
    503: {"model": ErrorBody, "description": "Try again in a moment (Retry-After)"},
}


def install(app: FastAPI) -> None:
    """Let every error of `app` leave in the one shape."""
    app.add_exception_handler(SeatrialError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


def status_of(error: SeatrialError) -> int:
    """Return the HTTP status that an error of ours leaves with."""
    kinds: tuple[tuple[type[SeatrialError], int], ...] = (
        (Unauthenticated, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (Conflict, 409),
        (Refused, 422),
        (Transient, 503),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)


def _ours(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, SeatrialError):
        raise TypeError(f"{error!r} came to the handler of our errors") from error
    status = status_of(error)
    headers = {}
    if isinstance(error, Transient):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s or _RETRY_AFTER_S))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Fault):
        _LOG.error("fault: %s", error)
    reason = error.reason if isinstance(error, Refused) and error.reason is not Reason.REFUSED else error.code
    return _answer(status, ErrorDetail(code=error.code, reason=reason, message=error.what, hint=error.hint), headers)


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise TypeError(f"{error!r} came to the handler of invalid requests") from error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    message, hint = f"{where}: {first['msg']}", "see /openapi.json for what this call takes"
    return _answer(422, ErrorDetail(code=Reason.REFUSED, reason=Reason.INVALID_REQUEST, message=message, hint=hint), {})


def _http(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise TypeError(f"{error!r} came to the handler of HTTP errors") from error
    code = {404: Reason.NOT_FOUND, 405: Reason.METHOD_NOT_ALLOWED}.get(error.status_code, Reason.REFUSED)
    headers = dict(error.headers or {})
    hint = "see /openapi.json for the calls that there are"
    return _answer(error.status_code, ErrorDetail(code=code, reason=code, message=str(error.detail), hint=hint), headers)


def _bug(_request: Request, error: Exception) -> JSONResponse:
    _LOG.error("unexpected %s in the control API", type(error).__name__, exc_info=error)
    message, hint = "the control API failed on this request", "an operator finds the cause in the control log"
    return _answer(500, ErrorDetail(code=Reason.FAULT, reason=Reason.FAULT, message=message, hint=hint), {})


def _answer(status: int, detail: ErrorDetail, headers: dict[str, str]) -> JSONResponse:
    cleaned = detail.model_copy(update={"message": plain(detail.message), "hint": plain(detail.hint)})
    return JSONResponse(ErrorBody(error=cleaned).model_dump(), status_code=status, headers=headers)
