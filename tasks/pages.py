"""What submissions and benchmarks leave on Prefect's page: Markdown per model and per endpoint, each under a key of its own.

Prefect lists artifacts by key with the newest version first: `model-ORG-NAME` is the last submission of a model, `endpoint-NAME` is
what an endpoint serves. Keys are built in `core.shown.key_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from core.endpoints import Cohort, Endpoint, Rollout
from core.errors import NotFound
from core.ids import SubmissionId, VersionId
from core.links import Links
from core.ports import Records
from core.shown import duration, headline, key_of, model_title, number, part, size
from core.submissions import Submission
from core.versions import ModelVersion, TrialReport

_URL = re.compile(r"https?://[^\s|`<>]+")
_SPECIAL = (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\["), ("*", "\\*"), ("_", "\\_"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A submission with what belongs to it, as one page shows it."""

    submission: Submission
    version: ModelVersion | None
    reports: tuple[TrialReport, ...]
    links: Links
    run: str | None


def leave_pages(records: Records, links: Links, submission: SubmissionId) -> None:
    """Write the pages of a submission that has ended: of its model, and of its endpoint where that exists."""
    row = records.submissions.get(submission)
    version = _known(records, row.version)
    reports = records.versions.reports(version.id) if version else ()
    title = f"{model_title(row.request.model.source)} -> {row.request.endpoint}"
    create_markdown_artifact(
        model_page(Outcome(row, version, newest_of_each(reports), links, flow_run.id)),
        key=key_of("model", model_title(row.request.model.source)),
        description=f"{title}: {row.state.replace('_', ' ')}",
    )
    leave_endpoint(records, links, row)


def leave_endpoint(records: Records, links: Links, row: Submission) -> None:
    """Write the page of a submission's endpoint; nothing where there is none."""
    try:
        endpoint = records.endpoints.get(row.request.endpoint)
    except NotFound:
        return
    stable, previous = _known(records, endpoint.stable), _known(records, endpoint.previous)
    create_markdown_artifact(
        endpoint_page(endpoint, stable, previous, row, links),
        key=key_of("endpoint", endpoint.name),
        description=f"{endpoint.name} serves {_titled(stable) or 'nothing'}",
    )


def leave_rollout(row: Rollout, model: str) -> None:
    """Write the page of a rollout that has ended."""
    create_markdown_artifact(
        rollout_page(row, model),
        key=key_of("endpoint", row.endpoint, "rollout"),
        description=f"{model} -> {row.endpoint}: {row.state.replace('_', ' ')}",
    )


def model_page(of: Outcome) -> str:
    """Return the Markdown of one submission: how it ended, its steps, its trials, where to go on."""
    row = of.submission
    lines = [f"# {text(model_title(row.request.model.source, row.request.model.revision))} -> {row.request.endpoint}", ""]
    lines += [f"**{row.state.replace('_', ' ')}**{': ' + text(row.message) if row.message else ''}", ""]
    if row.hint:
        lines += [f"Next: {text(row.hint)}", ""]
    lines += ["## Steps", "", *table(("step", "state", "time", "result"), (_step(row, index) for index in range(len(row.steps)))), ""]
    if of.reports:
        trials = ((str(report.kind), str(report.decision), _said(report)) for report in of.reports)
        lines += ["## Trials", "", *table(("trial", "decision", "numbers"), trials), ""]
    if of.version is not None:
        lines += ["## Version", "", *table(("what", "value"), version_rows(of.version)), ""]
    lines += ["## Links", "", *_links(of), ""]
    return "\n".join(lines)


def endpoint_page(endpoint: Endpoint, stable: ModelVersion | None, previous: ModelVersion | None, last: Submission, links: Links) -> str:
    """Return the Markdown of an endpoint: what it serves, how to call it, the last submission to it."""
    page = links.model(stable) if stable else None
    serves = f"`{_titled(stable)}`" if stable else "nothing"
    before = f"`{_titled(previous)}`" if previous else "none"
    rows = [
        ("serves", f"[{serves}]({page})" if page else serves),
        ("version", f"`{endpoint.stable[:12]}`" if endpoint.stable else "-"),
        ("previous version", before),
        ("last submission", f"`{last.id}`, {last.state.replace('_', ' ')}"),
    ]
    return "\n".join([
        f"# Endpoint {endpoint.name}", "", *table(("what", "value"), rows, escape=False), "",
        "## Call it", "", "```console", f'seatrial chat {endpoint.name} "hello"', "```", "",
        f"Any OpenAI client: base URL `{links.gateway_url}/v1`, model `{endpoint.name}`, a key from `seatrial keys create`.", "",
        "## Take it back", "", "```console", f"seatrial rollback {endpoint.name}", "```", "",
    ])  # fmt: skip


def rollout_page(row: Rollout, model: str) -> str:
    """Return the Markdown of a rollout: its end, and both cohorts of the verdict."""
    lines = [
        f"# {text(model)} -> {row.endpoint}",
        "",
        f"**{row.state.replace('_', ' ')}**: {text(row.reason or 'all steps passed')}",
        "",
    ]
    if row.verdict is not None:
        lines += [f"Verdict: {row.verdict.decision}, {text(row.verdict.reason)}; e-value {number(row.verdict.e_value)}.", ""]
        columns = ("cohort", "conversations", "bad", "answers", "errors", "slow", "loops", "nonsense", "votes", "first token p95")
        cohorts = (("stable", row.verdict.stable), ("candidate", row.verdict.candidate))
        lines += [*table(columns, ((name, *_cohort(cohort)) for name, cohort in cohorts)), ""]
    took = duration((row.ended_at or row.step_started_at) - row.started_at)
    return "\n".join([*lines, f"Rollout `{row.id}` took {took}; last share {part(row.share)}. See `seatrial rollouts {row.id}`.", ""])


def version_rows(version: ModelVersion) -> list[tuple[str, str]]:
    """Return what a version is, for people."""
    needs = version.needs
    return [
        ("version", version.short),
        ("commit", version.commit[:12]),
        ("licence", version.licence),
        ("architecture", needs.architecture),
        ("weights", f"{size(needs.weights_bytes)} {needs.dtype}"),
        ("context", f"{number(needs.max_model_len)} tokens"),
    ]


def newest_of_each(reports: Iterable[TrialReport]) -> tuple[TrialReport, ...]:
    """Return the newest report of each trial, in the order in which the trials ran."""
    newest = {report.kind: report for report in sorted(reports, key=lambda report: report.at)}
    return tuple(sorted(newest.values(), key=lambda report: report.at))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, escape: bool = True) -> list[str]:
    """Return the lines of a Markdown table."""
    shown = text if escape else str
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(shown(cell) for cell in row)} |" for row in rows),
    ]


def text(words: str) -> str:
    """Return words of somebody else's as Markdown shows them: one line, no table borders, no HTML, and no links.

    A URL in a message (the gateway's) is for programs: it becomes code, because a browser has no key for it.
    """
    return " ".join(_word(word) for word in words.split())


def _word(word: str) -> str:
    if _URL.fullmatch(word):
        return f"`{word}`"
    for special, shown in _SPECIAL:
        word = word.replace(special, shown)
    return word


def _step(row: Submission, index: int) -> tuple[str, str, str, str]:
    step = row.steps[index]
    took = duration(step.ended_at - step.started_at) if step.ended_at is not None else "-"
    return step.name.replace("_", " "), str(step.state), took, step.message


def _said(report: TrialReport) -> str:
    failed = report.first_failure()
    return failed.reason if failed else headline(report.numbers)


def _links(of: Outcome) -> list[str]:
    run, page = of.links.run(of.run), of.links.model(of.version) if of.version else None
    lines = [f"- [this run]({run})"] if run else []
    if page:
        lines.append(f"- [the version in MLflow]({page})")
    return [*lines, f"- on the command line: `seatrial status {of.submission.id}`"]


def _cohort(cohort: Cohort) -> tuple[str, ...]:
    counts = (cohort.conversations, cohort.bad, cohort.completions, cohort.errors, cohort.slow, cohort.loops, cohort.nonsense)
    return (*(number(count) for count in counts), f"+{cohort.thumbs_up} -{cohort.thumbs_down}", duration(cohort.ttft_p95_s))


def _titled(version: ModelVersion | None) -> str:
    return model_title(version.source, version.commit) if version else ""


def _known(records: Records, version: VersionId | None) -> ModelVersion | None:
    try:
        return records.versions.get(version) if version else None
    except NotFound:
        return None
