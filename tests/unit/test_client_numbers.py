"""Every number on the command line and in a request is finite and within its limits."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from core.access import Role
from seatrial.cli import main
from seatrial.cli.options import INNER_PART, PENALTY, TEMPERATURE, TOP_P, Numbers
from tests.equipment.control_env import control_env


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The control API as an operator calls it."""
    with control_env(tmp_path_factory.mktemp("env")) as env, env.client(Role.OPERATOR) as client:
        yield client


NOT_NUMBERS = ["nan", "-nan", "inf", "-inf", "1e999", "one", ""]
BASE = {
    "--temperature": ["bench", "run", "chat"],
    "--frequency-penalty": ["bench", "run", "chat"],
    "--top-p": ["bench", "run", "chat"],
    "--samples": ["bench", "run", "chat"],
    "--max-tokens": ["bench", "run", "chat"],
    "--margin": ["bench", "compare", "a", "b"],
    "--points": ["bench", "power", "--problems", "10"],
    "--pass-rate": ["bench", "power", "--problems", "10", "--samples", "2"],
    "--power": ["bench", "power", "--problems", "10", "--samples", "2"],
    "--limit": ["bench", "list"],
    "--expires-in": ["keys", "create", "app"],
    "--best-of": ["endpoints", "set", "chat"],
}


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("option", BASE)
def test_what_is_not_a_number_is_wrong_usage(option: str, value: str) -> None:
    done = CliRunner().invoke(main, ["--url", "http://127.0.0.1:1", "--key", "k", *BASE[option], option, value])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("option", ["--temperature", "--top-p", "--frequency-penalty"])
def test_nan_does_not_take_an_endpoints_default_away(option: str) -> None:
    done = CliRunner().invoke(main, ["--url", "http://127.0.0.1:1", "--key", "k", "endpoints", "set", "chat", option, "nan"])
    assert (done.exit_code, "got nan" in done.output) == (2, True)


def test_every_numeric_option_is_tried() -> None:
    tried = {*BASE, "--problems"}
    kinds = (type(click.INT), type(click.FLOAT), click.IntRange, click.FloatRange)
    found = {
        (name, type(option.type).__name__)
        for words in (["bench", "run"], ["bench", "compare"], ["bench", "power"], ["bench", "list"], ["endpoints", "set"], ["chat"])
        for option in command(words).params
        for name in option.opts[:1]
        if isinstance(option.type, kinds) or option.type.name.startswith("number")
    }
    assert {name for name, _kind in found} <= tried
    assert not {name for name, kind in found if kind in {"FloatParamType", "IntParamType"}}, "an option without limits"


def command(words: list[str]) -> click.Command:
    found: click.Command = main
    for word in words:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None
        found = inner
    return found


def test_minus_zero_is_zero() -> None:
    assert str(TEMPERATURE.convert("-0", None, None)) == "0.0"
    assert Numbers(PENALTY).convert("-0.0, 1", None, None) == (0.0, 1.0)


@pytest.mark.parametrize("value", ["0", "1.1"])
def test_a_limit_may_be_excluded(value: str) -> None:
    with pytest.raises(click.BadParameter, match="greater than 0 and at most 1"):
        TOP_P.convert(value, None, None)
    with pytest.raises(click.BadParameter, match="less than 1"):
        INNER_PART.convert("1", None, None)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/benchmarks", '{{"target": "chat", "temperature": [{0}]}}'),
        ("POST", "/v1/benchmarks", '{{"target": "chat", "frequency_penalty": [{0}]}}'),
        ("POST", "/v1/benchmarks", '{{"target": "chat", "top_p": {0}}}'),
        ("POST", "/v1/benchmarks", '{{"target": "chat", "samples": {0}}}'),
        ("POST", "/v1/benchmarks", '{{"target": "chat", "max_tokens": {0}}}'),
        ("PATCH", "/v1/endpoints/chat/policy", '{{"temperature": {0}}}'),
        ("PATCH", "/v1/endpoints/chat/policy", '{{"best_of": {0}}}'),
        ("POST", "/v1/keys", '{{"name": "app", "role": "application", "expires_in_s": {0}}}'),
        ("GET", "/v1/benchmarks/power?problems=10&points={0}", ""),
        ("GET", "/v1/benchmarks/power?problems=10&samples=2&power={0}", ""),
        ("GET", "/v1/benchmarks/power?problems=10&samples=2&pass_rate={0}", ""),
        ("GET", "/v1/benchmarks/compare?candidate=a&baseline=b&margin={0}", ""),
        ("GET", "/v1/submissions?limit={0}", ""),
    ],
)
def test_the_control_api_refuses_numbers_that_are_not_finite(api: TestClient, method: str, path: str, body: str, number: str) -> None:
    answer = api.request(method, path.format(number), content=body.format(number), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["reason"] == "invalid_request"
