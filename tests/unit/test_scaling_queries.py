"""What autoscalers ask Prometheus, answered by Prometheus' own promtool: a value, zero, or nothing, and nothing is no zero."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

from serving.engines.kubernetes.autoscaling import METRIC, TOKEN_METRIC, activation_query, load_query, token_query
from tests.equipment.kube_env import a_spec, where

VERSION = a_spec(1).version
SLEEPY = where(min_engines=0, max_engines=2, prometheus_url="http://prometheus")
AWAKE = where(max_engines=2, prometheus_url="http://prometheus")
RULES = Path(__file__).parents[2] / "infra/kubernetes/prometheus-adapter/rules.yaml"


def of_engine(name: str, value: str, *, namespace: str = "models", **labels: str) -> dict[str, str]:
    more = "".join(f',{key}="{text}"' for key, text in labels.items())
    return {f'vllm:{name}{{namespace="{namespace}",model_name="{VERSION}"{more}}}': value}


def of_gateway(value: str, *, outcome: str = "ok", namespace: str = "models") -> dict[str, str]:
    return {f'seatrial_requests_total{{namespace="{namespace}",version="{VERSION[:12]}",outcome="{outcome}"}}': value}


BUSY = of_engine("num_requests_running", "3x60", pod="a") | of_engine("num_requests_waiting", "2x60", pod="a")
ELSEWHERE = of_engine("num_requests_running", "90x60", namespace="staging")
QUIET, ASKED = of_gateway("7x60"), of_gateway("0+1x60")
SLOW = "request_time_per_output_token_seconds"
SPEAKS = (
    of_engine(f"{SLOW}_count", "0+10x60")
    | of_engine(f"{SLOW}_bucket", "0+10x60", le="1")
    | of_engine(f"{SLOW}_bucket", "0+10x60", le="+Inf")
)
SILENT = of_engine(f"{SLOW}_count", "9x60") | of_engine(f"{SLOW}_bucket", "9x60", le="1") | of_engine(f"{SLOW}_bucket", "9x60", le="+Inf")
TURNED_AWAY = of_gateway("0x40 1x20", outcome="engine_error")


@pytest.mark.parametrize(
    ("query", "series", "value"),
    [
        (load_query(VERSION, AWAKE), BUSY | ELSEWHERE, 5.0),
        (load_query(VERSION, AWAKE), ELSEWHERE, None),
        (load_query(VERSION, SLEEPY), BUSY | QUIET, 5.0),
        (load_query(VERSION, SLEEPY), ASKED, None),
        (load_query(VERSION, SLEEPY), QUIET, 0.0),
        (load_query(VERSION, SLEEPY), of_gateway("7x60", namespace="staging"), None),
        (load_query(VERSION, SLEEPY), {}, None),
        (token_query(VERSION, AWAKE), SPEAKS, 0.9),
        (token_query(VERSION, AWAKE), SILENT, 0.0),
        (token_query(VERSION, AWAKE), {}, None),
        (token_query(VERSION, SLEEPY), ASKED, None),
        (token_query(VERSION, SLEEPY), QUIET, 0.0),
        (activation_query(VERSION, SLEEPY), TURNED_AWAY, 1.0),
        (activation_query(VERSION, SLEEPY), of_gateway("4x60", outcome="engine_error"), 0.0),
        (activation_query(VERSION, SLEEPY), ASKED, None),
    ],
)
def test_a_query_gives_one_value_or_none(tmp_path: Path, query: str, series: dict[str, str], value: float | None) -> None:
    asked(tmp_path, series, {query: [] if value is None else [{"labels": "{}", "value": value}]})


def test_the_adapters_rules_make_one_series_per_namespace_and_version(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]), encoding="utf-8")
    labels = 'namespace="models",version="' + VERSION[:32] + '"'
    asked(
        tmp_path,
        BUSY | ELSEWHERE | SPEAKS,
        {
            f'{METRIC}{{namespace="models"}}': [{"labels": f"{METRIC}{{{labels}}}", "value": 5.0}],
            TOKEN_METRIC: [{"labels": f"{TOKEN_METRIC}{{{labels}}}", "value": 0.9}],
        },
        rules=["rules.yaml"],
    )


def asked(folder: Path, series: dict[str, str], expected: dict[str, list[dict[str, Any]]], *, rules: list[str] | None = None) -> None:
    """Ask at 50 minutes of a series a minute."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("NOT CHECKED: there is no promtool; install Debian's package prometheus")
    expressions = [{"expr": query, "eval_time": "50m", "exp_samples": samples} for query, samples in expected.items()]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": expressions}
    path = folder / "test.yaml"
    path.write_text(json.dumps({"rule_files": rules or [], "evaluation_interval": "1m", "tests": [test]}), encoding="utf-8")
    done = subprocess.run([tool, "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
