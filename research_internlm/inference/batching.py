"""Batches of sequences of different lengths: few padded tokens in few compiled shapes.

A graph is compiled for each length, so sequences are padded to one of a few; which few, `choose_lengths`
finds for the lengths at hand. No MindSpore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_STEP = 8  # lengths are multiples of it
_MAX_SHAPES = 4
# A compilation costs about as much as computing this many batches: 1.5 s against 20 to 40 ms for the tiny
# model on two cores (benchmarks/RESULTS.md, Evaluation).
_COMPILE_BATCHES = 50


def choose_lengths(lengths: Sequence[int], longest: int, batch_tokens: int) -> list[int]:
    """The lengths to pad to, so that padding and compilation together cost least.

    Args:
        lengths: Tokens of each sequence, at least one.
        longest: No length chosen exceeds it; at least the longest sequence.
        batch_tokens: Tokens of a batch, which put a price on compiling one more shape.

    Returns:
        One to four lengths, ascending; the last takes the longest sequence.
    """
    rounded = np.minimum(-(-np.asarray(lengths) // _STEP) * _STEP, longest)
    candidates, counts = np.unique(rounded, return_counts=True)
    total = np.concatenate(([0], np.cumsum(counts)))
    # costs[j]: tokens computed when the j shortest candidates are covered by the shapes chosen so far.
    costs = np.concatenate(([0.0], np.full(len(candidates), np.inf)))
    best, best_cost = [], np.inf
    chosen: list[list[int]] = [[] for _ in costs]
    for _ in range(min(_MAX_SHAPES, len(candidates))):
        costs, chosen = _one_more(costs, chosen, candidates, total, _COMPILE_BATCHES * batch_tokens)
        if costs[-1] < best_cost:
            best, best_cost = chosen[-1], costs[-1]
    return best


def _one_more(costs: np.ndarray, chosen: list[list[int]], candidates: np.ndarray, total: np.ndarray,
              shape_cost: float) -> tuple[np.ndarray, list[list[int]]]:
    """Least costs of covering each number of candidates with one more shape, and the shapes."""
    new_costs, new_chosen = np.full_like(costs, np.inf), [[] for _ in costs]
    for end, length in enumerate(candidates, 1):
        options = costs[:end] + (total[end] - total[:end]) * length + shape_cost
        start = int(options.argmin())
        new_costs[end], new_chosen[end] = options[start], [*chosen[start], int(length)]
    return new_costs, new_chosen


def make_batches(lengths: Sequence[int], rows: Mapping[int, int]) -> list[tuple[int, list[int]]]:
    """Groups sequences of like length, the longest first.

    A batch that the sequences of its shape do not fill takes on the next shorter ones, so only the last
    batch of all can be short.

    Args:
        lengths: Tokens of each sequence.
        rows: {length to pad to: sequences of a batch}; the largest takes every sequence.

    Returns:
        Length and indices of each batch; each index occurs once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches, start = [], 0
    while start < len(order):
        length = min(shape for shape in rows if shape >= lengths[order[start]])
        batches.append((length, order[start:start + rows[length]]))
        start += rows[length]
    return batches
