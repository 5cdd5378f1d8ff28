"""What the control API says of itself in /openapi.json holds: no input makes it fail, every answer fits its schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from core.access import Role
from tests.equipment.control_env import ControlEnv, control_env


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlEnv]:
    with control_env(tmp_path_factory.mktemp("openapi")) as env:
        yield env


@pytest.fixture(scope="module")
def operator(env: ControlEnv) -> str:
    return env.secret(Role.OPERATOR)


def test_no_input_makes_the_control_api_fail_and_every_answer_fits_its_schema(env: ControlEnv, operator: str) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", env.app)
    tried = set()
    for operation in map(_sound, schema.get_all_operations()):
        _try(operation.as_strategy(), operator)
        tried.add((operation.method, operation.path))
    assert tried == {(method, path) for path, methods in env.app.openapi()["paths"].items() for method in methods}


def _sound(operation: Any) -> Any:
    """Return the operation, or raise what is wrong with its schema."""
    return operation.ok()


def _try(cases: SearchStrategy[schemathesis.Case[Any]], operator: str) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(
            headers={"Authorization": f"Bearer {operator}"},
            checks=[not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance],
        )

    check()
