"""Choosing the next token: values by hand, and against scipy's softmax."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from research_internlm.inference.sampling import Sampling, choose, penalize, probabilities
from research_internlm.shared.errors import ToolkitError

# Probabilities 0.5, 0.3, 0.15, 0.05 in another order.
SHARES = np.array([0.15, 0.5, 0.05, 0.3])
LOGITS = np.log(SHARES).astype(np.float32)


def drawn_from(logits=LOGITS, seen=(), **options):
    return probabilities(np.asarray(logits, np.float32), seen, Sampling(1, **{"temperature": 1, **options}))


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [0.15, 0.5, 0.05, 0.3]),
    ({"top_k": 2}, [0, 5 / 8, 0, 3 / 8]),
    ({"top_k": 9}, [0.15, 0.5, 0.05, 0.3]),
    ({"top_p": 0.4}, [0, 1, 0, 0]),  # the first token passes it, and stays
    ({"top_p": 0.79}, [0, 5 / 8, 0, 3 / 8]),
    ({"top_p": 0.81}, [15 / 95, 50 / 95, 0, 30 / 95]),
    ({"top_k": 3, "top_p": 0.83}, [0, 5 / 8, 0, 3 / 8]),  # 0.8 / 0.95 of what top_k left reaches 0.83
    # Temperature 1/2 squares the probabilities: 225, 2500, 25, 900 of 3650.
    ({"temperature": 0.5}, [225 / 3650, 2500 / 3650, 25 / 3650, 900 / 3650]),
    # The logits are negative: doubling them squares the probabilities of tokens 1 and 3: 0.25, 0.09 of 0.54.
    ({"seen": [1, 3, 1], "repetition_penalty": 2}, [0.15 / 0.54, 0.25 / 0.54, 0.05 / 0.54, 0.09 / 0.54]),
])
def test_probabilities_by_hand(options, expected):
    assert drawn_from(**options) == pytest.approx(np.array(expected), abs=1e-6)


def test_the_penalty_divides_positive_logits_and_leaves_the_others_and_the_input_alone():
    logits = np.array([2, -2, 3, 0], np.float32)
    assert penalize(logits, [0, 1, 3, 0], 4.0).tolist() == [0.5, -8, 3, 0]
    assert logits.tolist() == [2, -2, 3, 0]


def test_equal_logits_count_by_their_id():
    assert drawn_from([1, 2, 2, 2], top_k=2).tolist() == [0, 0.5, 0.5, 0]
    assert choose(np.array([1, 2, 2, 2], np.float32), [], Sampling(1), None) == 1


def test_greedy_takes_the_likeliest_after_the_penalty_and_no_random_number():
    assert choose(LOGITS, [0], Sampling(1), None) == 1
    assert choose(LOGITS, [1], Sampling(1, repetition_penalty=3), None) == 3


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40), st.floats(0.1, 5),
       st.integers(0, 45), st.floats(0.01, 1))
def test_against_scipy(logits, temperature, top_k, top_p):
    logits = np.array(logits, np.float32)
    found = drawn_from(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    assert found.sum() == pytest.approx(1)
    kept = found > 0
    assert 1 <= kept.sum() <= (top_k or len(logits))
    assert logits[kept].min() >= logits[~kept].max(initial=-np.inf)
    scaled = logits.astype(np.float64) / temperature
    assert found[kept] == pytest.approx(softmax(scaled[kept]), rel=1e-6)
    if top_k == 0:
        everything = softmax(scaled)
        assert everything[kept].sum() >= top_p - 1e-9
        assert everything[kept].sum() - everything[kept].min() < top_p + 1e-9  # none too many


def test_draws_follow_the_probabilities_and_the_seed():
    random = np.random.default_rng(3)
    draws = [choose(LOGITS, [], Sampling(1, temperature=1), random) for _ in range(4000)]
    # Four standard deviations of the most uncertain share: 4 sqrt(0.25 / 4000) = 0.032.
    assert np.bincount(draws, minlength=4) / 4000 == pytest.approx(SHARES, abs=0.032)
    random = np.random.default_rng(3)
    assert draws[:50] == [choose(LOGITS, [], Sampling(1, temperature=1), random) for _ in range(50)]


@pytest.mark.parametrize(("options", "words"), [
    ({"max_new_tokens": 0}, ["max_new_tokens is 0"]),
    ({"temperature": -0.1, "top_p": 0.0}, ["temperature is -0.1", "top_p is 0.0"]),
    ({"temperature": float("nan"), "repetition_penalty": float("inf")}, ["is nan", "is inf"]),
    ({"top_p": 1.1, "top_k": -1}, ["top_p is 1.1", "top_k is -1"]),
    ({"repetition_penalty": 0, "seed": -1}, ["repetition_penalty is 0", "seed is -1"]),
])
def test_values_out_of_range_are_all_named(options, words):
    with pytest.raises(ToolkitError) as refused:
        Sampling(**{"max_new_tokens": 1, **options})
    assert all(word in str(refused.value) for word in words)
