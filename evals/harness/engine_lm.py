"""lm-eval's model over our engine's HTTP API. Runs in the child."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from core.benchmarks import Form, Sampling
from core.errors import Refused, Transient
from core.reasons import Reason
from evals.engine_client import Answered, EngineClient, Scored
from evals.harness.asking import Ask, Asking
from evals.harness.job import Job
from evals.harness.rows import Row, Rows
from evals.harness.seeds import Identity, seeds

_DEFAULT_MAX_TOKENS = 256


class EngineLM(LM):  # type: ignore[misc]  # lm-eval is untyped
    """Answers lm-eval's requests, each once: from the file of rows where it is there, else from the engine and into the file.

    A request's identity is its document's (`task_id`, `sampling`, `index`) where we made the document; of lm-eval's own tasks
    it is task, document and part, at the point and index that `at` names.
    """

    tokenizer_name = "engine"  # lm-eval asks for it with a chat template; the engine applies its own

    def __init__(self, job: Job, engine: EngineClient, rows: Rows, say: Callable[[Row], None]) -> None:
        super().__init__()
        self._job = job
        self._engine = engine
        self._rows = rows
        self._say = say
        self._asking = Asking(job.concurrency, job.patience)
        self._told: set[Identity] = set()
        self.at: tuple[Sampling, int] = (job.grid[0], 0)
        self.rows: dict[Identity, Row] = dict(rows.done)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return an answer for every request; an answer that the engine failed to give is empty."""
        identities = [self._identity(request) for request in requests]
        drawn = seeds(self._job.seed, identities)

        def question(request: Instance, identity: Identity) -> tuple[Row, Ask]:
            bare = Row(*identity, drawn[identity])
            return bare, lambda: self._generated(bare, request)

        self._answer([question(request, identity) for request, identity in zip(requests, identities, strict=True)])
        return [self.rows[identity].text for identity in identities]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation after its context, and whether greedy decoding gives it."""
        told = self._scores(requests, lambda request: request.args[0] + request.args[1], lambda request: len(request.args[0]))
        return [(value, greedy) for value, greedy in told]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-probability of each whole text."""
        return [value for value, _greedy in self._scores(requests, lambda request: request.args[0], lambda _request: 0)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: ARG002 - lm-eval's
        """Return the conversation as JSON: the engine applies the model's own template."""
        return json.dumps(chat_history)

    def get_model_info(self) -> Mapping[str, Any]:
        """Return what stands in the results document."""
        return {"version": self._job.version, "form": str(self._job.form), "seed": self._job.seed, "run": self._job.run}

    def _scores(
        self, requests: Sequence[Instance], text: Callable[[Instance], str], begin: Callable[[Instance], int]
    ) -> list[tuple[float, bool]]:
        identities = [self._identity(request) for request in requests]
        drawn = seeds(self._job.seed, identities)

        def question(request: Instance, identity: Identity) -> tuple[Row, Ask]:
            bare = Row(*identity, drawn[identity])
            return bare, lambda: _scored(bare, self._engine.score(text(request)), begin(request))

        self._answer([question(request, identity) for request, identity in zip(requests, identities, strict=True)])
        return [_score(self.rows[identity]) for identity in identities]

    def _answer(self, questions: Sequence[tuple[Row, Ask]]) -> None:
        """Ask what is not there yet, and tell the platform of every row once."""
        for bare, _ask in questions:
            if bare.identity in self.rows:
                self._tell(self.rows[bare.identity])
        self._asking.each([question for question in questions if question[0].identity not in self.rows], self._take, len(questions))
        refusals = [self.rows[bare.identity].refused for bare, _ask in questions if bare.identity in self.rows]
        if refusals and all(refusals):
            raise Refused(
                f"the engine took none of {len(refusals)} questions: {refusals[0]}",
                reason=Reason.ENGINE_REFUSED,
                hint="nothing was measured: see that the suite's prompts and its longest answer fit the model's context",
            )

    def _take(self, row: Row) -> None:
        self._rows.add(row)
        self.rows[row.identity] = row
        self._tell(row)

    def _tell(self, row: Row) -> None:
        if row.identity not in self._told:
            self._told.add(row.identity)
            self._say(row)

    def _generated(self, bare: Row, request: Instance) -> Row:
        text, options = request.args
        asked = json.loads(text) if self._job.form is Form.CHAT else text
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
        answer = self._engine.answer(asked, self._sampling(request, options), stops=stops, seed=bare.seed)
        return _filled(bare, answer)

    def _sampling(self, request: Instance, options: Mapping[str, Any]) -> Sampling:
        """Return the point of the grid: our documents name theirs; lm-eval's tasks bring their own longest answer."""
        if "sampling" in request.doc:
            return next(point for point in self._job.grid if point.key == request.doc["sampling"])
        point, _index = self.at
        most = options.get("max_gen_toks") or options.get("max_tokens") or _DEFAULT_MAX_TOKENS
        return Sampling(point.temperature, point.frequency_penalty, point.top_p, min(int(most), point.max_tokens))

    def _identity(self, request: Instance) -> Identity:
        doc = request.doc
        if "sampling" in doc:
            return doc["task_id"], doc["sampling"], doc["index"]
        point, index = self.at
        return f"{request.task_name}/{request.doc_id}/{request.idx}", point.key, index


def _filled(bare: Row, answer: Answered) -> Row:
    return Row(
        *bare.identity,
        bare.seed,
        text=answer.text,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        mean_logprob=answer.mean_logprob,
        seconds=answer.seconds,
    )


def _scored(bare: Row, scored: Scored, begin: int) -> Row:
    """Sum over the tokens that begin in the continuation; the text's first token has no probability."""
    chosen = [
        (value, greedy)
        for at, value, greedy in zip(scored.offsets, scored.logprobs, scored.greedy, strict=True)
        if at >= begin and value is not None
    ]
    if not chosen and begin:
        raise Transient(f"the engine told no probability of the continuation of {bare.task_id}")
    total, greedy = sum(value for value, _ in chosen), all(greedy for _, greedy in chosen)
    return Row(*bare.identity, bare.seed, text=json.dumps([total, greedy]), finish_reason="scored", prompt_tokens=len(scored.offsets))


def _score(row: Row) -> tuple[float, bool]:
    if not row.text:
        return float("-inf"), False
    total, greedy = json.loads(row.text)
    return float(total), bool(greedy)
