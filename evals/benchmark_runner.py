"""Adapters of the ports in core/ports/benchmark_runner.py: they pin a plan, run it on a model, and compare policies on its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.benchmarks import Form, Plan, Sample
from core.errors import Refused
from core.ids import VersionId
from core.ports.benchmark_runner import Progress
from core.ports.clock import Clock
from core.ports.sandbox import Sandbox
from core.reasons import Reason
from core.settings import TrialPolicy
from evals.harness.run import run_plan
from evals.ranker import HttpRanker
from evals.study import MeanLogprob, Policy, RandomChoice, Ranked, Voting, choose, compare_policies
from evals.suite_loader import load_suite
from evals.suites.suite import PromptTemplate, Suite, plan_of


class SuiteBenchmarkRunner:
    """`BenchmarkRunner`. `pinned` stores a prompt in the prompt registry and returns its `name@version` there."""

    def __init__(self, sandbox: Callable[[], Sandbox], policy: TrialPolicy, pinned: Callable[[PromptTemplate], str]) -> None:
        self._sandbox = sandbox
        self._policy = policy
        self._pinned = pinned

    def pin(self, asked: Plan, own: Form) -> Plan:
        """Return the plan with everything that its answers depend on; points without a longest answer get the suite's."""
        if asked.suite_digest:
            return asked
        suite = load_suite(asked.suite, self._policy)
        form = suite.form_for(own, asked.form)
        way = suite.way(form)
        grid = tuple(replace(point, max_tokens=point.max_tokens or way.max_tokens) for point in asked.grid)
        plan = plan_of(suite, samples=asked.samples, grid=grid, form=form, seed=asked.seed, prompt=self._pinned(way.prompt))
        # a file outside evals/suites is found again by its path, which the suite's name does not contain
        return replace(plan, suite=asked.suite)

    def run(self, address: str, version: VersionId, plan: Plan, rows: Path, progress: Progress) -> tuple[Sample, ...]:
        """Return every sample. Refused when the suite's file has changed since the plan was pinned."""
        return run_plan(
            address,
            version,
            plan,
            suite_of(plan, self._policy),
            self._sandbox(),
            rows,
            concurrency=self._policy.concurrency,
            progress=progress,
            lmeval_tasks=self._policy.lmeval_tasks,
        )


class SuiteSamplingStudy:
    """`SamplingStudy`. `ranker_key` is the key of the ranker's endpoint."""

    def __init__(self, sandbox: Callable[[], Sandbox], policy: TrialPolicy, ranker_key: str, clock: Clock) -> None:
        self._sandbox = sandbox
        self._policy = policy
        self._ranker_key = ranker_key
        self._clock = clock

    def compare(
        self, samples: Sequence[Sample], plan: Plan, *, policies: Sequence[str], best_of: Sequence[int], ranker: tuple[str, str] | None
    ) -> Mapping[str, Any]:
        """Return the table and the advice."""
        suite = suite_of(plan, self._policy)
        with ExitStack() as opened:
            chosen = [self._policy_of(name, ranker, opened) for name in policies]
            scores = compare_policies(samples, suite.problems, chosen, best_of=best_of, seed=plan.seed)
        advice = choose(scores)
        return {"rows": [score.shown() for score in scores], "advice": advice.reason, "chosen": advice.score.shown()}

    def _policy_of(self, name: str, ranker: tuple[str, str] | None, opened: ExitStack) -> Policy:
        if name == RandomChoice.name:
            return RandomChoice()
        if name == MeanLogprob.name:
            return MeanLogprob()
        if name == Voting.name:
            return Voting(self._sandbox())
        if name == Ranked.name and ranker is not None:
            return Ranked(opened.enter_context(HttpRanker(*ranker, self._ranker_key, self._clock)))
        raise Refused(
            f"there is no policy {name[:50]!r} here", reason=Reason.BAD_POLICY, hint="random, mean_logprob, voting, or ranker with its URL"
        )


def suite_of(plan: Plan, policy: TrialPolicy) -> Suite:
    """Return the suite that a pinned plan names. Refused when its content has changed."""
    return load_suite(plan.suite, policy, plan.suite_digest)
