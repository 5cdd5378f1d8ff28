"""Which rights on AWS the code that calls S3 needs, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ON_OBJECTS = {
    "get_object": {"s3:GetObject"},
    "head_object": {"s3:GetObject"},
    "put_object": {"s3:PutObject"},
    "create_multipart_upload": {"s3:PutObject"},
    "upload_fileobj": {"s3:PutObject", "s3:AbortMultipartUpload"},  # in parts, which it aborts when one fails
    "abort_multipart_upload": {"s3:AbortMultipartUpload"},
    "delete_object": {"s3:DeleteObject"},
}
ON_BUCKET = {
    "list_objects_v2": {"s3:ListBucket"},
    "list_multipart_uploads": {"s3:ListBucketMultipartUploads"},
}


def operations(source: Path) -> frozenset[str]:
    """Return the names of boto3's operations that a file calls on a `client` or `_client`, by a paginator too."""
    return frozenset(_operations(ast.parse(source.read_text(encoding="utf-8"))))


def rights(called: frozenset[str], table: dict[str, set[str]]) -> set[str]:
    """Return the IAM actions that operations need, of those that the table knows."""
    return {action for name in called for action in table.get(name, ())}


def _operations(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="get_paginator"), args=[ast.Constant(value=str(name))]):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="client") | ast.Attribute(attr="_client"), attr=name)):
                yield name
            case _:
                pass
