"""Numbers and names as people see them."""

from __future__ import annotations

import math

import pytest

from core.shown import (
    benchmark_title,
    chance,
    duration,
    headline,
    key_of,
    label,
    measure,
    model_title,
    number,
    part,
    rounded,
    run_title,
    size,
)


def test_a_number_on_a_page_of_mlflow_has_four_significant_digits_and_no_noise() -> None:
    values = [6.939e-18, 0.9258998692515198, 25.541666666666668, 123_456.0, -0.00012346, 48.0]
    assert [rounded(value) for value in values] == [0.0, 0.9259, 25.54, 123_500.0, -0.0001235, 48.0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(6.939e-18, "0"), (0.0, "0"), (0.042345, "0.0423"), (1.23456, "1.23"), (12.0, "12"), (123.9, "124"), (12_345.6, "12,346"),
     (0.00042, "4.20e-04"), (1e30, "1.00e+30"), (math.inf, "infinite"), (math.nan, "-"), (None, "-"), (-0.5, "-0.5"), (7, "7")],
)  # fmt: skip
def test_a_number_has_three_significant_digits_and_no_noise(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.4583333, "45.8 %"), (1.0, "100.0 %"), (0.0, "0.0 %"), (6.939e-18, "0.0 %"), (0.0001, "< 0.1 %"), (None, "-")]
)
def test_a_part_is_a_percentage(value: float | None, shown: str) -> None:
    assert part(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (0.0123, "12 ms"), (0.31, "0.3 s"), (9.97, "10 s"), (59.7, "1 min 0 s"), (190, "3 min 10 s"), (7500, "2 h 5 min"),
     (273_600, "3 d 4 h"), (None, "-")],
)  # fmt: skip
def test_a_duration_is_in_the_units_that_people_use(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (860_160, "840 KiB"), (1_310_720, "1.25 MiB"), (64 * 1024**3, "64 GiB")])
def test_a_size_is_in_binary_units(count: int, shown: str) -> None:
    assert size(count) == shown


def test_a_small_p_value_is_shown_as_a_bound() -> None:
    assert (chance(2.2e-16), chance(0.0412), chance(1.0)) == ("< 0.001", "0.0412", "1")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [("pass_at_1", 0.5, "50.0 %"), ("loop_rate", 0.02, "2.0 %"), ("ttft_s", 0.042, "42 ms"), ("tokens_per_s", 17.3, "17.3"),
     ("weights_bytes", 1024, "1 KiB"), ("mean_tokens", 41.25, "41.2"), ("pass_at_1/t0.2-f0", 0.25, "25.0 %")],
)  # fmt: skip
def test_a_measurement_is_shown_in_its_own_unit(name: str, value: float, shown: str) -> None:
    assert measure(name, value) == shown


def test_a_measurement_has_a_name_in_words() -> None:
    names = ("pass_at_10", "ttft_s", "median_seconds", "loop_rate", "pass_at_1/t0.2")
    assert [label(name) for name in names] == ["pass@10", "time to first token", "median time", "loops", "pass@1/t0.2"]


def test_a_headline_has_six_measurements_at_most_and_the_score_first() -> None:
    many = {f"flaw{number}_rate": 0.0 for number in range(20)} | {"pass_at_1": 0.5, "low": 0.25, "high": 0.75, "loop_rate": 6.9e-18}
    assert headline(many) == "pass@1 50.0 % (95 % interval 25.0 % to 75.0 %), loops 0.0 %"
    assert headline({f"a{number}": 1.0 for number in range(20)}).count(",") == 5


def test_a_folder_is_named_by_its_last_part_and_a_digest_never_by_its_path() -> None:
    one, other = model_title("/home/ann/models/steady"), model_title("/home/bob/models/steady")
    assert one != other
    assert all(title.startswith("steady (folder ") and "/" not in title for title in (one, other))
    assert model_title("/home/ann/models/steady/") == one


def test_runs_are_named_by_model_and_endpoint() -> None:
    assert run_title("demo/steady", "chat") == "demo/steady -> chat"
    assert run_title("demo/steady@0123456789abcdef", "chat") == "demo/steady@01234567 -> chat"
    assert benchmark_title("/data/talk.jsonl.gz", "") == "talk on every endpoint"
    assert benchmark_title("harbour", "chat") == "harbour on chat"


def test_the_keys_of_artifacts_hold_what_prefect_allows() -> None:
    assert key_of("endpoint", "chat") == "endpoint-chat"
    assert key_of("model", "Org/SmolLM2_135M.v1", "checks") == "model-org-smollm2-135m-v1-checks"
    assert key_of("model", model_title("/a/steady")).startswith("model-steady-folder-")
