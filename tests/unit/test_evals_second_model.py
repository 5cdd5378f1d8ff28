"""The stable version as a judge: what its engine is asked, and what is decided by its probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.benchmarks import Form, Plan, Sample
from core.degeneration import in_other_language
from core.errors import Refused, Transient
from core.ids import VersionId
from core.programs import RunOutcome
from core.reasons import Reason
from evals.degeneration import Means, judge_improbable
from evals.engine_client import EngineClient
from evals.second_model import MOST_ANSWERS, MOST_CHARS, NATURAL, Pairs, Question, ask_means, mean_of, pairs_of
from evals.suite_loader import load_suite
from evals.suites.suite import plan_of
from tests.equipment.judging_engine import judging
from tests.equipment.made_runs import answer
from tests.equipment.openai_server import Says, engine_that

VERSION = VersionId("b" * 64)
LIMIT = 0.1
SUITE = load_suite("harbour")
ASKED = ({"role": "user", "content": "say a word"},)


def planned(form: Form, samples: int = 1) -> Plan:
    return plan_of(SUITE, samples=samples, form=form)


def answers(plan: Plan, text: str = "one two three", tokens: int = 5) -> list[Sample]:
    key = plan.grid[0].key
    return [
        replace(answer(one.task_id, index, passed=False, sampling=key), text=text, prompt_tokens=tokens)
        for one in SUITE.problems
        for index in range(plan.samples)
    ]


def told(candidate: float, stable: float = -0.5, *, natural: float | None = -2.0, improbable: int = 48, sound: int = 0) -> Means:
    """Return means of 48 answers, of which the first `improbable` have the mean `candidate`, and the first `sound` are sound."""
    keys = [(f"t/{place}", "t0", 0) for place in range(48)]
    ours = {key: candidate if place < improbable else -0.7 for place, key in enumerate(keys)}
    return Means(natural, ours, dict.fromkeys(keys, stable), frozenset(keys[:sound]))


def test_a_completion_is_judged_after_its_question() -> None:
    with engine_that(judging(lambda word: -float(len(word)))) as engine, EngineClient(engine.address, VERSION) as client:
        found = client.answer_logprobs("to be ", "or not", 2)
    assert found == (-2.0, -3.0)
    ((path, body),) = engine.asked
    assert path == "/v1/completions"
    assert (body["prompt"], body["max_tokens"], body["prompt_logprobs"], body["temperature"]) == ("to be or not", 1, 0, 0.0)


def test_a_chat_answer_is_judged_as_the_assistants_message_left_open() -> None:
    with engine_that(judging(lambda word: -float(len(word)))) as engine, EngineClient(engine.address, VERSION) as client:
        found = client.answer_logprobs(ASKED, "or not", 3)
    assert found == (-2.0, -3.0)
    ((path, body),) = engine.asked
    assert path == "/v1/chat/completions"
    assert body["messages"] == [*ASKED, {"role": "assistant", "content": "or not"}]
    assert (body["add_generation_prompt"], body["continue_final_message"], body["max_tokens"]) == (False, True, 1)


def test_the_length_of_the_question_is_asked_where_it_is_unknown() -> None:
    with engine_that(judging(lambda word: -float(len(word)))) as engine, EngineClient(engine.address, VERSION) as client:
        assert client.answer_logprobs(ASKED, "or not") == (-2.0, -3.0)
    assert [len(body["messages"]) for _path, body in engine.asked] == [1, 2]


def test_an_engine_without_probabilities_of_prompts_is_refused() -> None:
    with (
        engine_that(lambda _path, _body: Says("a fake engine has no probabilities", status=400)) as engine,
        EngineClient(engine.address, VERSION) as client,
        pytest.raises(Refused, match="has no probabilities"),
    ):
        client.answer_logprobs("a", "b", 1)


@pytest.mark.parametrize("raw", [b"{}", b'{"choices": [{"text": "x"}]}', b'{"choices": [{"prompt_logprobs": [null, {"1": 3}]}]}'])
def test_probabilities_that_cannot_be_read_are_transient(raw: bytes) -> None:
    with (
        engine_that(lambda _path, _body: Says(raw=raw)) as engine,
        EngineClient(engine.address, VERSION) as client,
        pytest.raises(Transient, match="cannot be read"),
    ):
        client.answer_logprobs("", "b", 1)


@pytest.mark.parametrize(
    ("logprobs", "mean"),
    [([-1.0] * 8, -1.0), ([-1.0] * 7, None), ([], None), ([-9999.0, *[-1.0] * 7], -4.0), ([float("-inf"), *[-1.0] * 7], -4.0)],
)
def test_the_mean_needs_eight_tokens_and_bounds_the_impossible_ones(logprobs: list[float], mean: float | None) -> None:
    assert mean_of(logprobs) == mean


@pytest.mark.parametrize("form", [Form.COMPLETION, Form.CHAT])
def test_both_versions_are_asked_in_the_form_of_their_plan(form: Form) -> None:
    plan = planned(form)
    pairs = pairs_of(SUITE, plan, answers(plan, tokens=99), plan, answers(plan, "four five six", tokens=7))
    ours, theirs = pairs.candidate[0], pairs.stable[0]
    shown = SUITE.shown(SUITE.problems[0], form)
    assert ours.asked == theirs.asked == (({"role": "user", "content": shown},) if form is Form.CHAT else shown)
    assert (ours.tokens, theirs.tokens) == (7, 7), "as the stable version's engine counts them"
    assert (ours.answer, theirs.answer) == ("one two three", "four five six")


def test_a_chat_is_raw_text_for_a_stable_version_without_a_template() -> None:
    chat, raw = planned(Form.CHAT), planned(Form.COMPLETION)
    pairs = pairs_of(SUITE, chat, answers(chat), raw, answers(raw, tokens=7))
    ours, theirs = pairs.candidate[0], pairs.stable[0]
    assert (ours.asked, ours.tokens) == (SUITE.shown(SUITE.problems[0], Form.CHAT) + "\n\n", 0)
    assert (theirs.asked, theirs.tokens) == (SUITE.problems[0].prompt, 7)


def test_a_completion_is_raw_text_for_a_stable_version_with_a_template() -> None:
    chat, raw = planned(Form.CHAT), planned(Form.COMPLETION)
    pairs = pairs_of(SUITE, raw, answers(raw), chat, answers(chat, tokens=7))
    assert (pairs.candidate[0].asked, pairs.candidate[0].tokens) == (SUITE.problems[0].prompt, 0)
    assert (pairs.stable[0].asked, pairs.stable[0].tokens) == (({"role": "user", "content": SUITE.shown(SUITE.problems[0], Form.CHAT)},), 7)


def test_many_long_answers_are_bounded_and_spread_over_the_problems() -> None:
    plan = planned(Form.COMPLETION, samples=4)
    pairs = pairs_of(SUITE, plan, answers(plan, "word " * 1000), plan, answers(plan))
    assert len(pairs.candidate) == len(pairs.stable) == MOST_ANSWERS
    assert len({one.key[0] for one in pairs.candidate}) == MOST_ANSWERS
    assert {len(one.answer) for one in pairs.candidate} == {MOST_CHARS}


def test_empty_answers_and_faults_of_the_sandbox_are_left_out() -> None:
    plan = planned(Form.COMPLETION)
    ours = answers(plan)
    ours[0], ours[1] = replace(ours[0], text=" \n"), replace(ours[1], outcome=RunOutcome.SANDBOX_FAULT)
    asked = {one.key[0] for one in pairs_of(SUITE, plan, ours, plan, answers(plan)).candidate}
    assert asked.isdisjoint({ours[0].task_id, ours[1].task_id})


def a_pair(text: str, *, passed: bool = False) -> Pairs:
    key = ("t/1", "t0", 0)
    return Pairs((Question(key, "ask ", 1, text, passed=passed),), (Question(key, "ask ", 1, "plain " * 8),))


def test_the_engine_is_asked_for_natural_texts_and_both_answers() -> None:
    with engine_that(judging(lambda word: -9.0 if word == "zxq" else -1.0)) as engine, EngineClient(engine.address, VERSION) as client:
        found = ask_means(client, a_pair("zxq " * 9), concurrency=2)
    assert (found.natural, list(found.candidate.values()), list(found.stable.values())) == (-1.0, [-9.0], [-1.0])
    assert (found.sound, found.unavailable, len(engine.asked)) == (frozenset(), "", len(NATURAL) + 2)


@pytest.mark.parametrize(
    ("text", "passed"), [("zxq " * 9, True), ("Das ist nicht gut und ich kann es auch nicht mit der Maus machen. ", False)]
)
def test_answers_that_pass_or_are_in_another_language_are_sound(text: str, passed: bool) -> None:
    with engine_that(judging(lambda _word: -1.0)) as engine, EngineClient(engine.address, VERSION) as client:
        assert ask_means(client, a_pair(text, passed=passed), concurrency=2).sound == {("t/1", "t0", 0)}


def test_an_answer_that_the_engine_refuses_has_no_mean() -> None:
    script = judging(lambda _word: -1.0, refuses=lambda text: "zxq" in text)
    with engine_that(script) as engine, EngineClient(engine.address, VERSION) as client:
        found = ask_means(client, a_pair("zxq " * 9), concurrency=2)
    assert (found.candidate, len(found.stable), found.unavailable) == ({}, 1, "")


def test_an_engine_that_refuses_natural_texts_is_unavailable_with_its_reason() -> None:
    script = judging(lambda _word: -1.0, refuses=lambda _text: True)
    with engine_that(script) as engine, EngineClient(engine.address, VERSION) as client:
        finding, numbers = judge_improbable(ask_means(client, a_pair("zxq " * 9), concurrency=2), LIMIT)
    assert (finding.passed, finding.name, numbers) == (True, "stable_cannot_judge", {})
    assert "does not state the probabilities of a prompt" in finding.reason
    assert "400" in finding.reason


def test_a_weak_judge_is_asked_for_natural_texts_only() -> None:
    with engine_that(judging(lambda _word: -9.0)) as engine, EngineClient(engine.address, VERSION) as client:
        assert ask_means(client, a_pair("zxq " * 9), concurrency=2) == Means(-9.0)
    assert len(engine.asked) == len(NATURAL)


def test_without_pairs_nothing_is_asked() -> None:
    with engine_that(judging(lambda _word: -1.0)) as engine, EngineClient(engine.address, VERSION) as client:
        assert "no answers of both versions" in ask_means(client, Pairs(), concurrency=2).unavailable
    assert engine.asked == []


@pytest.mark.parametrize(
    ("means", "name"),
    [
        (told(-8.0), "nonsense_answers"),
        (told(-5.1), "nonsense_answers"),
        (told(-8.0, improbable=12), "nonsense_answers"),
        (told(-8.0, improbable=4), "probable_to_stable"),
        (told(-4.4), "probable_to_stable"),
        (told(-5.9, natural=-3.5), "probable_to_stable"),
        (told(-6.1, natural=-3.5), "nonsense_answers"),
        (told(-4.6, -3.2), "probable_to_stable"),
        (told(-8.0, sound=48), "probable_to_stable"),
        (told(-8.0, sound=44), "probable_to_stable"),
        (told(-8.0, natural=-3.6), "stable_cannot_judge"),
        (told(-8.0, natural=None), "stable_cannot_judge"),
        (told(-8.0, -3.6), "stable_cannot_judge"),
        (Means(-2.0, {("a", "t0", 0): -9.0}, {("b", "t0", 0): -0.5}), "stable_cannot_judge"),
        (Means(unavailable="the answers are gone"), "stable_cannot_judge"),
    ],
)
def test_answers_are_improbable_below_the_floor_and_below_the_stable_versions_own(means: Means, name: str) -> None:
    finding, _numbers = judge_improbable(means, LIMIT)
    assert (finding.name, finding.passed) == (name, name != "nonsense_answers")


def test_the_finding_states_the_rate_the_floor_and_the_next_step() -> None:
    finding, numbers = judge_improbable(told(-8.0), LIMIT)
    assert finding.name == Reason.NONSENSE_ANSWERS
    assert finding.reason.startswith("100.0 % of 48 answers are improbable to the stable version (below -4.5 nats a token) against")
    assert finding.hint
    assert numbers == {"judge_mean": pytest.approx(-8.0), "judge_stable_mean": pytest.approx(-0.5), "improbable_rate": 1.0}


def test_a_weak_judge_abstains_with_its_mean() -> None:
    finding, _numbers = judge_improbable(told(-8.0, natural=-10.2), LIMIT)
    assert finding.reason == (
        "the stable version cannot judge: plain English and Python have a mean of -10.2 nats a token for it, below -3.5"
    )


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (NATURAL[0], False),
        (NATURAL[2], False),
        ("", False),
        ("zxq de la de la de la de la de la", False),
        ("图书馆星期一到星期五开放。请带上您的借书证。", False),
        ("Die Bibliothek ist am Montag geöffnet, und für die Bücher ist eine Karte nicht nötig.", True),
        ("La bibliothèque est ouverte le lundi, et pour les livres il ne faut pas une carte dans la salle.", True),
        ("De bibliotheek is op maandag open en voor de boeken heb je een kaart niet nodig van het huis.", True),
    ],
)
def test_another_language_is_found_by_its_common_words(text: str, other: bool) -> None:
    assert in_other_language(text) is other
