"""Small valid records for tests; every field can be given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from core.access import Key, Role
from core.benchmarks import Benchmark, BenchmarkState, Form, Plan, Sample, Sampling, Trigger
from core.conversations import Assignment, Completion, Feedback, Outcome, Thumb, Usage
from core.endpoints import Rollout, RolloutState
from core.ids import (
    BenchmarkId,
    CompletionId,
    ConversationId,
    Digest,
    EndpointName,
    KeyId,
    PrincipalId,
    RolloutId,
    SubmissionId,
    VersionId,
)
from core.programs import RunOutcome
from core.submissions import SubmissionRequest
from core.versions import EngineNeeds, FileDigest, ModelRef, ModelVersion

CHAT = EndpointName("chat")
STABLE = VersionId("a" * 64)
CANDIDATE = VersionId("b" * 64)
ANN = PrincipalId("prn-ann")
NOW = 1_700_000_000.0


def a_request(**fields: Any) -> SubmissionRequest:
    return replace(SubmissionRequest(ModelRef("org/model", "main"), CHAT, note="first try"), **fields)


def a_version(**fields: Any) -> ModelVersion:
    version = ModelVersion(
        id=CANDIDATE,
        source="org/model",
        commit="c" * 40,
        files=(FileDigest("config.json", 10, Digest("d" * 64)), FileDigest("model.safetensors", 2**40, Digest("e" * 64))),
        tensors=Digest("f" * 64),
        tensors_manifest=Digest("0" * 64),
        licence="apache-2.0",
        chat_template=None,
        needs=EngineNeeds("LlamaForCausalLM", "bfloat16", 2**40, 1024),
        created_at=NOW,
    )
    return replace(version, **fields)


def a_rollout(**fields: Any) -> Rollout:
    rollout = Rollout(
        id=RolloutId("ro-1"),
        submission=SubmissionId("sub-1"),
        endpoint=CHAT,
        candidate=CANDIDATE,
        stable=None,
        state=RolloutState.DARK,
        step=0,
        share=0.0,
        started_at=NOW,
        step_started_at=NOW,
        deadline=NOW + 3600,
    )
    return replace(rollout, **fields)


def an_assignment(conversation: str = "conv-1", **fields: Any) -> Assignment:
    assignment = Assignment(ConversationId(conversation), CHAT, STABLE, RolloutId("ro-1"), candidate=False, share=0.5, assigned_at=NOW)
    return replace(assignment, **fields)


def a_completion(number: int = 1, conversation: str = "conv-1", **fields: Any) -> Completion:
    completion = Completion(
        id=CompletionId(f"chatcmpl-{number}"),
        conversation=ConversationId(conversation),
        endpoint=CHAT,
        version=STABLE,
        rollout=RolloutId("ro-1"),
        key=KeyId("key-1"),
        principal=ANN,
        outcome=Outcome.OK,
        status=200,
        usage=Usage(7, 11),
        finish_reason="stop",
        looped=False,
        started_at=NOW + number,
        ttft_s=0.25,
        seconds=1.5,
        streamed=True,
    )
    return replace(completion, **fields)


def a_vote(number: int = 1, conversation: str = "conv-1", **fields: Any) -> Feedback:
    vote = Feedback(
        completion=CompletionId(f"chatcmpl-{number}"),
        principal=ANN,
        thumb=Thumb.UP,
        comment="",
        at=NOW + 100 + number,
        endpoint=CHAT,
        version=STABLE,
        conversation=ConversationId(conversation),
    )
    return replace(vote, **fields)


def a_key(number: int = 1, **fields: Any) -> Key:
    key = Key(KeyId(f"key-{number}"), ANN, "ann", Role.APPLICATION, (CHAT,), f"{number:064d}", NOW + number)
    return replace(key, **fields)


def a_plan(**fields: Any) -> Plan:
    plan = Plan("harbour", Digest("1" * 64), "completion@1", "code-1", Form.COMPLETION, 2, (Sampling(0.2),), ("\ndef ",))
    return replace(plan, **fields)


def a_benchmark(number: int = 1, **fields: Any) -> Benchmark:
    row = Benchmark(
        id=BenchmarkId(f"bm-{number}"),
        version=STABLE,
        plan=a_plan(),
        trigger=Trigger.HAND,
        state=BenchmarkState.RUNNING,
        started_at=NOW + number,
        endpoint=CHAT,
    )
    return replace(row, **fields)


def a_sample(problem: int = 0, index: int = 0, *, passed: bool = True, **fields: Any) -> Sample:
    sample = Sample(
        task_id=f"suite/{problem}",
        sampling=Sampling(0.2).key,
        index=index,
        seed=1000 * problem + index,
        text="    return 1\n",
        code="def f():\n    return 1\n",
        finish_reason="stop",
        prompt_tokens=20,
        completion_tokens=5,
        mean_logprob=-0.5,
        seconds=0.25,
        outcome=RunOutcome.PASSED if passed else RunOutcome.FAILED,
        detail="" if passed else f"f({problem}) is 2, not 1",
        cpu_s=0.01,
        isolation="seccomp",
    )
    return replace(sample, **fields)
