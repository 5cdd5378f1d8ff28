"""Feedback of users on completions."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.conversations import Feedback, Thumb
from serving.control.schemas.base import Text, View, moment


class FeedbackView(View):
    """A thumb, a comment or both on one completion."""

    completion: Text
    conversation: Text
    endpoint: str
    version: str
    thumb: Thumb | None
    comment: Text
    at: datetime
    counted: bool = Field(description="false when its conversation had been moved to another version")
    keep_text_days: int = Field(description="the endpoint's policy on conversation text")

    @classmethod
    def of(cls, feedback: Feedback, keep_text_days: int) -> FeedbackView:
        """Show feedback."""
        return cls(
            completion=feedback.completion,
            conversation=feedback.conversation,
            endpoint=feedback.endpoint,
            version=feedback.version,
            thumb=feedback.thumb,
            comment=feedback.comment,
            at=moment(feedback.at),
            counted=feedback.counted,
            keep_text_days=keep_text_days,
        )
