"""Pictures of an endpoint's benchmarks over time, for Prefect's page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from core.benchmarks import Benchmark
from core.versions import Decision

_MOST_POINTS = 60
_DAY_S = 86_400
"""matplotlib counts time in days since 1970."""
_INK, _LINE, _ALARM = "#1f2430", "#2f6fb0", "#c63d3d"


def history_png(rows: Sequence[Benchmark], title: str) -> bytes:
    """Draw pass@1 with its 95 % interval over time, alarms in red, a line where the version changed. Oldest of `rows` first."""
    from matplotlib import dates  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - a second of import that only this needs
    from matplotlib.figure import Figure  # noqa: PLC0415

    drawn = [row for row in rows if "pass_at_1" in row.numbers][-_MOST_POINTS:]
    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = [(row.ended_at or row.started_at) / _DAY_S for row in drawn]
    scores = [100 * row.numbers["pass_at_1"] for row in drawn]
    below = [max(0.0, score - 100 * row.numbers.get("low", score / 100)) for row, score in zip(drawn, scores, strict=True)]
    above = [max(0.0, 100 * row.numbers.get("high", score / 100) - score) for row, score in zip(drawn, scores, strict=True)]
    axes.errorbar(times, scores, yerr=[below, above], fmt="-o", color=_LINE, ecolor="#b9cfe6", capsize=2, markersize=4, linewidth=1.3)
    alarms = [(time, score) for time, score, row in zip(times, scores, drawn, strict=True) if row.decision is Decision.FAIL]
    if alarms:
        axes.plot(*zip(*alarms, strict=True), "o", color=_ALARM, markersize=8, label="worse than its baseline", zorder=5)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    for before, time, row in zip(drawn, times[1:], drawn[1:], strict=False):
        if row.version != before.version:
            axes.axvline(time, color="#8a8f98", linestyle=":", linewidth=1)
            axes.annotate(row.version[:8], (time, 1.0), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top", ha="right")
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.set_ylabel("pass@1, %")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    ticks = dates.AutoDateLocator(minticks=3)  # type: ignore[no-untyped-call] # matplotlib types its dates only in part
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(ticks))  # type: ignore[no-untyped-call]
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def data_uri(png: bytes) -> str:
    """Return a picture as an address that holds it: Prefect's page can show it without a server of ours."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
