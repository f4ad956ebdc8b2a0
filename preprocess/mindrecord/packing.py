"""Packing: which samples share a row, so that little of a row is padding.

Samples are shuffled with a seed. A row takes samples in that order while room for a short one is left after
them, and then the longest sample that fits (best fit), again and again until none does. Best fit alone would
leave most rows some 40 tokens of padding, because no sample is shorter than its instruction; a row that is
ended in time nearly always finds a sample of exactly the missing length.

The shuffle keeps the orderings of one question apart, which the input holds one after another and which are
equally long, and it mixes long samples with short ones, so rows hold similar numbers of samples. The result
depends on the lengths, their order and the seed alone.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

import numpy as np

Sample = tuple[np.ndarray, np.ndarray]  # token ids (int32) and supervised flags (bool), both of shape (n,)


class _Pool:
    """Samples not placed yet: the next one in shuffled order, or the longest that fits."""

    def __init__(self, lengths: Sequence[int], order: Sequence[int]) -> None:
        self._lengths = lengths
        self._order = iter(order)
        self._by_length: dict[int, deque[int]] = defaultdict(deque)
        self._present = 0  # bit n is set where a sample of n tokens is left: the best fit is one bit search
        self._placed = bytearray(len(lengths))
        for index in order:
            self._by_length[lengths[index]].append(index)
            self._present |= 1 << lengths[index]
        self.next = next(self._order, None)

    def take_next(self) -> int:
        """The first sample left in shuffled order, which is also the first left of its length."""
        return self._take(self._by_length[self._lengths[self.next]].popleft())

    def take_longest(self, room: int) -> int | None:
        """The longest sample that fits into `room` tokens; of equally long ones the last."""
        length = (self._present & ((2 << room) - 1)).bit_length() - 1
        return self._take(self._by_length[length].pop()) if length > 0 else None

    def _take(self, index: int) -> int:
        self._placed[index] = True
        length = self._lengths[index]
        if not self._by_length[length]:
            self._present ^= 1 << length
        while self.next is not None and self._placed[self.next]:
            self.next = next(self._order, None)
        return index


def assign_rows(lengths: Sequence[int], capacity: int, seed: int) -> Iterator[list[int]]:
    """Assigns whole samples to rows.

    Args:
        lengths: Tokens of each sample, each from 1 to `capacity`.
        capacity: Row length.
        seed: Of the shuffle.

    Yields:
        For each row the samples in it, by index; every index is in one row, once.

    Raises:
        ValueError: A sample is empty or longer than a row (callers drop those before).
    """
    if lengths and not 1 <= min(lengths) <= max(lengths) <= capacity:
        raise ValueError(f"samples of {min(lengths)} to {max(lengths)} tokens in rows of {capacity}")
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    short = sorted(lengths)[len(lengths) // 20] if lengths else 0  # one sample in twenty is shorter
    pool = _Pool(lengths, order)
    while pool.next is not None:
        row, room = [], capacity
        while pool.next is not None and room - lengths[pool.next] >= short:
            row.append(pool.take_next())
            room -= lengths[row[-1]]
        while (index := pool.take_longest(room)) is not None:
            row.append(index)
            room -= lengths[index]
        yield row


def pack(samples: Sequence[Sample], capacity: int, seed: int) -> Iterator[list[Sample]]:
    """Groups samples into rows of at most `capacity` tokens, none of them cut; see `assign_rows`."""
    for row in assign_rows([len(ids) for ids, _ in samples], capacity, seed):
        yield [samples[index] for index in row]
