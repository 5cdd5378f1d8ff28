"""The types of suites: programming problems, their prompts, and openings of synthetic conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from core.benchmarks import Form, Plan, Sampling
from core.errors import Refused
from core.ids import Digest
from core.reasons import Reason

LMEVAL = "lmeval:"
PROMPT = "{{prompt}}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem (Chen et al., Evaluating Large Language Models Trained on Code, 2021): `test` defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The text around a problem's prompt, with `{{prompt}}` and `{{entry_point}}`. A changed text needs a new version."""

    name: str
    version: int
    text: str

    @property
    def pinned(self) -> str:
        """`name@version`, the form in plans and results."""
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> Digest:
        """The sha256 of the text."""
        return Digest(hashlib.sha256(self.text.encode()).hexdigest())

    def render(self, prompt: str, entry_point: str = "") -> str:
        """Return the text with a problem's prompt in it."""
        before, mark, after = self.text.replace("{{entry_point}}", entry_point).partition(PROMPT)
        return before + prompt + after if mark else before


@dataclass(frozen=True, slots=True)
class Way:
    """The rules for one form: prompt, extractor of the program (evals/harness/extract.py), stops, and longest answer in tokens."""

    prompt: PromptTemplate
    extractor: str
    stops: tuple[str, ...]
    max_tokens: int


_CHAT_TEXT = """Complete this Python function. Answer with the whole function, its imports included, in one ```python block.

```python
{{prompt}}
```"""
COMPLETION = Way(
    PromptTemplate("seatrial-completion", 1, PROMPT), "completion-v2", ("\ndef ", "\nclass ", "\nif __name__", "\nprint("), 512
)
"""The default where a suite's .suite.toml has no value."""
CHAT = Way(PromptTemplate("seatrial-chat", 1, _CHAT_TEXT), "chat-v2", (), 1024)
"""The default for the form chat."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Problems under a name. `digest` is the sha256 of their (unpacked) file: scores are comparable when it is equal.

    `form` is the form that its .suite.toml describes first; `completion` and `chat` are the rules for either form. `forms` are those in
    which its problems can be asked.
    """

    name: str
    digest: Digest
    problems: tuple[Problem, ...]
    form: Form = Form.COMPLETION
    completion: Way = COMPLETION
    chat: Way = CHAT
    forms: tuple[Form, ...] = (Form.COMPLETION, Form.CHAT)

    def form_for(self, own: Form, asked: Form = Form.OWN) -> Form:
        """Return the form in which a model is asked whose own form is `own`; `asked`: the one that a person wants.

        A chat model is asked in completion form where the suite has no other. Raises Refused where the suite does not support the form
        that is asked for, and where a chat is asked of a model without a chat template.
        """
        wanted = own if asked is Form.OWN else asked
        if asked is Form.OWN and wanted not in self.forms and Form.COMPLETION in self.forms:
            wanted = Form.COMPLETION
        if wanted not in self.forms:
            raise Refused(
                f"the suite {self.name} cannot be asked in {wanted} form, only in {' and '.join(self.forms)} form",
                reason=Reason.FORM_NOT_SUPPORTED,
                hint="choose another suite or form",
            )
        if wanted is Form.CHAT and own is Form.COMPLETION:
            raise Refused(
                f"the suite {self.name} cannot be asked in chat form: the model has no chat template",
                reason=Reason.FORM_NOT_SUPPORTED,
                hint="use --form completion" if Form.COMPLETION in self.forms else "choose a suite with completion form",
            )
        return wanted

    def way(self, form: Form = Form.OWN) -> Way:
        """Return the rules for a form."""
        return self.chat if (self.form if form is Form.OWN else form) is Form.CHAT else self.completion

    @property
    def prompt(self) -> PromptTemplate:
        """The prompt of its own form."""
        return self.way().prompt

    @property
    def extractor(self) -> str:
        """The extractor of its own form."""
        return self.way().extractor

    @property
    def stops(self) -> tuple[str, ...]:
        """The stops of its own form."""
        return self.way().stops

    @property
    def max_tokens(self) -> int:
        """The longest answer in its own form, in tokens."""
        return self.way().max_tokens

    @property
    def lmeval(self) -> bool:
        """Whether it is a task of lm-eval, which lm-eval runs and scores."""
        return self.name.startswith(LMEVAL)

    def shown(self, problem: Problem, form: Form) -> str:
        """Return the text that is sent for a problem: the raw prompt, or the user's message."""
        return self.way(form).prompt.render(problem.prompt, problem.entry_point)


@dataclass(frozen=True, slots=True)
class Opening:
    """The messages of a synthetic user, turn by turn."""

    id: str
    turns: tuple[str, ...]


def plan_of(
    suite: Suite,
    *,
    samples: int,
    grid: Sequence[Sampling] | None = None,
    form: Form = Form.OWN,
    seed: int = 0,
    prompt: str | None = None,
) -> Plan:
    """Return the plan that requests `samples` answers per problem and point of `grid` (default: greedy, the suite's longest answer).

    `prompt` is the pin in the prompt registry, if it differs from the `name@version` in the suite's file.
    """
    asked = suite.form if form is Form.OWN else form
    way = suite.way(asked)
    points = tuple(grid) if grid else (Sampling(max_tokens=way.max_tokens),)
    keys = [point.key for point in points]
    if samples < 1 or len(set(keys)) < len(keys):
        raise Refused(
            f"{samples} samples at {len(keys)} points ({', '.join(keys)[:200]}) cannot be planned",
            reason=Reason.BAD_PLAN,
            hint="ask for one sample or more, and for every point once",
        )
    return Plan(suite.name, suite.digest, prompt or way.prompt.pinned, way.extractor, asked, samples, points, way.stops, seed)
