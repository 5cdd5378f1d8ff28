"""Every route with every role: who may come in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.access import Role
from tests.equipment.control_env import ControlEnv, control_env

APP, SUB, OPS = Role.APPLICATION, Role.SUBMITTER, Role.OPERATOR
EVERYONE = {APP, SUB, OPS}
MAY: dict[tuple[str, str], set[Role]] = {
    ("post", "/v1/submissions"): {SUB, OPS},
    ("get", "/v1/submissions"): {SUB, OPS},
    ("get", "/v1/submissions/{submission_id}"): {SUB, OPS},
    ("post", "/v1/submissions/{submission_id}/cancel"): {SUB, OPS},
    ("get", "/v1/submissions/{submission_id}/logs"): {SUB, OPS},
    ("get", "/v1/models"): {SUB, OPS},
    ("get", "/v1/models/{version}"): {SUB, OPS},
    ("get", "/v1/leaderboard"): {SUB, OPS},
    ("get", "/v1/endpoints"): EVERYONE,
    ("get", "/v1/endpoints/{name}"): EVERYONE,
    ("post", "/v1/endpoints/{name}/rollback"): {OPS},
    ("patch", "/v1/endpoints/{name}/policy"): {OPS},
    ("delete", "/v1/endpoints/{name}"): {OPS},
    ("post", "/v1/benchmarks"): {SUB, OPS},
    ("get", "/v1/benchmarks"): {SUB, OPS},
    ("get", "/v1/benchmarks/power"): {SUB, OPS},
    ("get", "/v1/benchmarks/compare"): {SUB, OPS},
    ("get", "/v1/benchmarks/{benchmark_id}"): {SUB, OPS},
    ("get", "/v1/benchmarks/{benchmark_id}/problems"): {SUB, OPS},
    ("get", "/v1/benchmarks/{benchmark_id}/answers"): {SUB, OPS},
    ("post", "/v1/benchmarks/{benchmark_id}/cancel"): {SUB, OPS},
    ("post", "/v1/benchmarks/{benchmark_id}/studies"): {SUB, OPS},
    ("get", "/v1/rollouts"): {SUB, OPS},
    ("get", "/v1/rollouts/{rollout_id}"): {SUB, OPS},
    ("get", "/v1/feedback"): EVERYONE,
    ("post", "/v1/keys"): {OPS},
    ("get", "/v1/problems"): {OPS},
    ("get", "/metrics"): {OPS},
    ("get", "/v1/keys"): {OPS},
    ("delete", "/v1/keys/{key_id}"): {OPS},
    ("get", "/v1/whoami"): EVERYONE,
}
OPEN = {("get", "/healthz")}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlEnv]:
    with control_env(tmp_path_factory.mktemp("roles")) as env:
        yield env


def _path(path: str) -> str:
    return path.replace("{submission_id}", "sub-none").replace("{version}", "a" * 64).replace("{name}", "none").replace(
        "{rollout_id}", "ro-none"
    ).replace("{key_id}", "key-none").replace("{benchmark_id}", "bm-none")  # fmt: skip


def test_the_table_names_every_route_that_there_is(env: ControlEnv) -> None:
    there = {(method, path) for path, methods in env.app.openapi()["paths"].items() for method in methods}
    assert there == set(MAY) | OPEN


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("route", sorted(MAY), ids=" ".join)
def test_a_role_comes_in_where_the_table_says_and_nowhere_else(env: ControlEnv, route: tuple[str, str], role: Role) -> None:
    answer = env.client(role).request(route[0], _path(route[1]))
    if role in MAY[route]:
        assert answer.status_code in {200, 404, 422}, answer.text
    else:
        assert answer.status_code == 403
        assert answer.json()["error"]["reason"] == "role"


@pytest.mark.parametrize("route", sorted(MAY), ids=" ".join)
def test_without_a_key_every_route_is_shut(env: ControlEnv, route: tuple[str, str]) -> None:
    answer = env.client().request(route[0], _path(route[1]))
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"code", "reason", "message", "hint"}


def test_an_expired_key_opens_nothing(env: ControlEnv) -> None:
    secret = env.secret(OPS, expires_at=1.0)
    answer = env.client().get("/v1/whoami", headers={"Authorization": f"Bearer {secret}"})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (401, "dead_key")
    assert secret not in answer.text


def test_a_revoked_key_opens_nothing(env: ControlEnv) -> None:
    operator = env.client(OPS)
    made = operator.post("/v1/keys", json={"name": "bob", "role": "submitter"}).json()
    mine = {"Authorization": f"Bearer {made['secret']}"}
    assert env.client().get("/v1/whoami", headers=mine).json()["name"] == "bob"
    assert operator.delete(f"/v1/keys/{made['id']}").status_code == 200
    assert env.client().get("/v1/whoami", headers=mine).status_code == 401


def test_the_list_of_keys_shows_no_secret_and_no_digest(env: ControlEnv) -> None:
    operator = env.client(OPS)
    made = operator.post("/v1/keys", json={"name": "eve", "role": "application", "endpoints": ["chat"]}).json()
    listed = operator.get("/v1/keys").text
    assert made["id"] in listed
    assert made["secret"] not in listed
    assert "sha256" not in listed


def test_an_application_sees_only_the_endpoints_that_its_key_may_call(env: ControlEnv) -> None:
    for name in ("first", "second"):
        env.records.endpoints.ensure(name, 1.0)  # type: ignore[arg-type]
    client = env.client(APP, "app", ("first",))
    assert [endpoint["name"] for endpoint in client.get("/v1/endpoints").json()] == ["first"]
    hidden, missing = (client.get(f"/v1/endpoints/{name}") for name in ("second", "none"))
    assert hidden.status_code == 404
    assert hidden.text.replace("second", "ID") == missing.text.replace("none", "ID")
