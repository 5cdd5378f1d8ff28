"""The leaderboard."""

from __future__ import annotations

from serving.control.schemas.base import Number, Text, View


class LeaderboardRowView(View):
    """One row of the leaderboard. `pass_at_1` is the benchmark's score, 0 to 1, null when it was never benchmarked."""

    endpoint: str
    version: str
    model: Text
    submitter: Text
    pass_at_1: Number
    thumbs_up: int
    thumbs_down: int
    conversations: int
    completions: int
    prompt_tokens: int
    completion_tokens: int
    loops: int
    nonsense: int
    errors: int
