"""The measure of degeneration on natural and bad texts: false alarms and detection, also on kinds that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.equipment.texts import LOW_STABLE_LOGPROB, Labelled, bad, natural

BY_SET = pytest.mark.parametrize("held_out", [False, True], ids=["calibration", "held out"])


def share(rows: list[Labelled], found: Callable[[Labelled], bool]) -> float:
    assert rows
    return sum(map(found, rows)) / len(rows)


@BY_SET
def test_at_most_one_natural_text_in_a_hundred_is_called_degenerate(held_out: bool) -> None:
    rows = [one for one in natural() if one.held_out is held_out]
    assert share(rows, lambda one: one.judge().degenerate) <= 0.01


def test_natural_texts_cut_by_their_length_are_rarely_called_loops() -> None:
    cut = [Labelled(one.kind, one.held_out, one.text, one.completion_tokens, "length") for one in natural()]
    assert share(cut, lambda one: one.judge().degenerate) <= 0.01


@pytest.mark.parametrize(("held_out", "least"), [(False, 0.95), (True, 0.92)], ids=["calibration", "held out"])
def test_nonsense_of_damaged_models_is_found_in_the_text(held_out: bool, least: float) -> None:
    rows = [one for one in bad() if one.bad == "nonsense" and one.held_out is held_out]
    assert share(rows, lambda one: one.judge().degenerate) >= least


@pytest.mark.parametrize("kind", sorted({one.kind for one in bad() if one.bad == "nonsense"}))
def test_no_kind_of_damage_escapes(kind: str) -> None:
    assert share([one for one in bad() if one.kind == kind], lambda one: one.judge().degenerate) >= 0.7


def test_most_loops_of_the_sound_model_and_all_kinds_of_made_loops_are_found() -> None:
    assert share([one for one in bad() if one.bad == "loop"], lambda one: one.judge().looped) >= 0.85


def test_answers_of_damaged_weights_are_improbable_under_the_sound_model() -> None:
    kinds = {"noise 0.2", "noise 0.35", "noise 0.5", "permuted up_proj", "permuted o_proj", "layers swapped", "tokens off by one"}
    rows = [one for one in bad() if one.kind in kinds]
    assert share(rows, lambda one: (one.stable_logprob or 0.0) < LOW_STABLE_LOGPROB) >= 0.95
    sound = [one for one in natural() if one.stable_logprob is not None]
    assert share(sound, lambda one: (one.stable_logprob or 0.0) < LOW_STABLE_LOGPROB) == 0
