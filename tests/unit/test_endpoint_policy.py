"""What an endpoint may promise."""

from __future__ import annotations

from math import inf, nan

import pytest

from core.endpoints import BestOf, EndpointPolicy
from core.errors import Refused

LIKELIEST = BestOf.MEAN_LOGPROB


@pytest.mark.parametrize(
    "policy",
    [
        EndpointPolicy(),
        EndpointPolicy(temperature=0, top_p=1, frequency_penalty=-2),
        EndpointPolicy(temperature=2, best_of=16, policy=LIKELIEST),
        EndpointPolicy(best_of=4, policy=LIKELIEST),
        EndpointPolicy(temperature=0, policy=LIKELIEST),
    ],
    ids=str,
)
def test_a_policy_within_its_bounds_is_accepted(policy: EndpointPolicy) -> None:
    policy.check()


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (EndpointPolicy(temperature=2.1), "temperature 2.1 is out of range; it lies between 0 and 2"),
        (EndpointPolicy(temperature=nan), "temperature"),
        (EndpointPolicy(top_p=0.0), "top_p"),
        (EndpointPolicy(frequency_penalty=-inf), "frequency_penalty"),
        (EndpointPolicy(keep_text_days=-1), "keep_text_days"),
        (EndpointPolicy(best_of=0), "best_of"),
        (EndpointPolicy(best_of=17, policy=LIKELIEST), "best_of"),
        (EndpointPolicy(policy=BestOf.VOTING), "live requests have none; use mean_logprob"),
        (EndpointPolicy(best_of=4), "best of 4 chosen at random costs 4 answers without being better than one; choose by mean_logprob"),
        (EndpointPolicy(best_of=4, policy=LIKELIEST, temperature=0), "every answer would be the same"),
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_kept_is_refused_with_what_to_do(policy: EndpointPolicy, said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        policy.check()
    assert caught.value.reason == "bad_policy"
