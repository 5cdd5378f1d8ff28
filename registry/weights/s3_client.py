"""The client of an S3 server, and its errors as the platform's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from core.errors import Fault, SeatrialError, Transient

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_PASSING = frozenset({"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "InternalError", "ServiceUnavailable"})
_SERVER_ERROR = 500


def s3_client(
    endpoint_url: str | None,
    *,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str | None = None,
    read_timeout_s: float = 60.0,
) -> S3Client:
    """Make a client for AWS (no `endpoint_url`) or another server. Credentials default to the usual AWS places.

    Checksums only `when_required`: servers other than AWS's fail on the checksums that boto3 adds by default (measured with rclone's).
    """
    config = Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 3},
        connect_timeout=10,
        read_timeout=read_timeout_s,
        s3={"addressing_style": "path"} if endpoint_url else {},
    )
    with translated("making an S3 client"):
        return boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=region or ("us-east-1" if endpoint_url else None),
            config=config,
        )


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise the errors of S3's client as Transient where a retry can help, else as Fault. `doing` begins the message."""
    try:
        yield
    except ClientError as error:
        raise _of_server(doing, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Fault(f"{doing}: no S3 credentials", hint="give them in the environment or in AWS's own files") from error
    except (BotoConnectionError, ConnectionClosedError, HTTPClientError, IncompleteReadError) as error:
        raise Transient(f"{doing}: the S3 server is unavailable: {error}", hint="retried automatically") from error
    except (BotoCoreError, ValueError) as error:
        raise Fault(f"{doing}: {error}", hint="see SEATRIAL_WEIGHTS_URL and SEATRIAL_S3_ENDPOINT_URL") from error


def _of_server(doing: str, error: ClientError) -> SeatrialError:
    code = code_of(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _PASSING or status >= _SERVER_ERROR:
        return Transient(f"{doing}: the S3 server says {code}", hint="retried automatically")
    if code == "NoSuchBucket":
        return Fault(f"{doing}: the bucket does not exist", hint="create it, or change SEATRIAL_WEIGHTS_URL")
    return Fault(f"{doing}: the S3 server says {code}", hint="see the bucket, its policy and the credentials")


def code_of(error: ClientError) -> str:
    """Return S3's code of an error (`NoSuchKey`), `unknown` without one."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))
