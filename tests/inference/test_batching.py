"""Which lengths sequences are padded to, and how they share batches."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from research_internlm.inference.batching import choose_lengths, make_batches

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60)


def cost(lengths, shapes, batch_tokens):
    """Tokens computed, and 50 batches for each shape compiled."""
    return sum(min(s for s in shapes if s >= n) for n in lengths) + 50 * batch_tokens * len(shapes)


@settings(deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=40), st.integers(0, 8))
def test_no_other_choice_of_lengths_costs_less(lengths, batch_tokens):
    chosen = choose_lengths(lengths, 64, batch_tokens)
    candidates = range(8, 65, 8)
    best = min(cost(lengths, shapes, batch_tokens) for count in range(1, 5)
               for shapes in combinations(candidates, count) if shapes[-1] >= max(lengths))
    assert cost(lengths, chosen, batch_tokens) == best


@given(LENGTHS, st.integers(0, 50))
def test_lengths_are_few_and_take_every_sequence(lengths, spare):
    longest = max(lengths) + spare
    chosen = choose_lengths(lengths, longest, 0)
    assert chosen == sorted(set(chosen)) and 1 <= len(chosen) <= 4
    assert max(lengths) <= chosen[-1] <= longest


def test_compiling_must_pay():
    lengths = [20] * 250 + [200] * 3
    assert choose_lengths(lengths, 256, 0) == [24, 200]
    assert choose_lengths(lengths, 256, 1000) == [200]  # saves 44,000 tokens, costs 50,000
    assert choose_lengths(lengths * 2, 256, 1000) == [24, 200]


@given(LENGTHS, st.integers(1, 9))
def test_batches_hold_every_sequence_once_and_only_the_last_is_short(lengths, size):
    rows = {length: size * 200 // length for length in choose_lengths(lengths, 200, 0)}
    batches = make_batches(lengths, rows)
    assert sorted(index for _, batch in batches for index in batch) == list(range(len(lengths)))
    assert all(lengths[index] <= length for length, batch in batches for index in batch)
    assert all(len(batch) == rows[length] for length, batch in batches[:-1])
    assert len(batches[-1][1]) <= rows[batches[-1][0]]
    shown = [lengths[index] for _, batch in batches for index in batch]
    assert np.all(np.diff(shown) <= 0)
